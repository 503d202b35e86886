"""Captions that a cached model generates for a split, and the perplexity of the references."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.nn.utils.rnn import PackedSequence

from captioning.datasets.batches import CaptionDataset
from captioning.decoding import SearchMethod
from captioning.decoding.constraints import TokenConstraints
from captioning.decoding.search import search
from captioning.features.cache import CacheRows
from captioning.features.cached_model import CachedModel
from captioning.nn.losses import cross_entropy
from captioning.reranking.ngram import NgramReranker
from captioning.text.caption_arrays import CaptionArray
from captioning.text.vocabulary import Vocabulary

IMAGES_PER_BATCH = 64
_CAPTIONS_PER_IMAGE = 5


@contextmanager
def _evaluation_mode(cached_model: CachedModel) -> Iterator[None]:
    """Put a cached model into evaluation mode, and restore the mode of each part afterwards."""
    parts = list(cached_model.children())
    modes = [part.training for part in parts]
    cached_model.eval()
    try:
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.train(mode)


@torch.inference_mode()
def caption_features(
    cached_model: CachedModel,
    cache: CacheRows,
    rows: Sequence[int],
    vocabulary: Vocabulary,
    method: SearchMethod,
    *,
    reranker: NgramReranker | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Return the best caption of each cached image.

    Args:
        cached_model: The model; its mode is restored after the call.
        cache: Features of the images.
        rows: Rows of the cache, in the order of the captions returned.
        vocabulary: Vocabulary of the decoder.
        method: The search.
        reranker: N-gram reranking of the model; needed by searches with a ``rerank_weight``.
        on_progress: Called with the number of captioned images and the number of all images, after
            each batch.
    """
    decoder = cached_model.decoder
    constraints = TokenConstraints.resolve(method, vocabulary)
    captions: list[str] = []
    with _evaluation_mode(cached_model):
        for start in range(0, len(rows), IMAGES_PER_BATCH):
            batch = torch.tensor(rows[start : start + IMAGES_PER_BATCH])
            features = cached_model.encode(cache, batch)
            beams = search(
                decoder.step,
                decoder.start(features),
                method,
                constraints,
                rerank=None if reranker is None else reranker.prepare(features.vector),
            )
            words = [vocabulary.decode(beam[0].tokens) for beam in beams]
            captions += map(vocabulary.tokenizer.join, words)
            on_progress(len(captions), len(rows))
    return captions


@torch.inference_mode()
def perplexity(
    cached_model: CachedModel,
    cache: CacheRows,
    captions: CaptionArray,
    *,
    batch_size: int = 500,
) -> float:
    """Return the perplexity of reference captions, ``exp(total NLL / number of words)``.

    ``<eos>`` and ``<unk>`` count as words, as in language modeling.

    Args:
        cached_model: The model; its mode is restored after the call.
        cache: Features of the images.
        captions: Captions of each image, each from ``<bos>`` to ``<eos>``; none for an image that
            cannot be read.
        batch_size: Captions per batch.

    Raises:
        DataError: There are no captions.
    """
    total, words = 0.0, 0
    device = cached_model.device
    dataset = CaptionDataset(captions)
    with _evaluation_mode(cached_model):
        for batch in dataset.batches(batch_size, per_image=_CAPTIONS_PER_IMAGE):
            features = cached_model.encode(cache, batch.images)
            inputs: PackedSequence = batch.inputs.to(device)  # type: ignore[arg-type]
            logits = cached_model.decoder(features, inputs, batch.image_index.to(device))
            loss = cross_entropy(logits, batch.targets.to(device))
            total += loss.nll.item() * loss.words
            words += loss.words
    return math.exp(total / words)
