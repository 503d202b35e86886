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
from captioning.text.vocabulary import Vocabulary, join_words


@contextmanager
def _evaluating(cached_model: CachedModel) -> Iterator[None]:
    """Put a cached model into evaluation mode, and restore the mode of each part afterwards."""
    parts = list(cached_model.children())
    training = [part.training for part in parts]
    cached_model.eval()
    try:
        yield
    finally:
        for part, was_training in zip(parts, training, strict=True):
            part.train(was_training)


@torch.inference_mode()
def caption_features(
    cached_model: CachedModel,
    cache: CacheRows,
    places: Sequence[int],
    vocabulary: Vocabulary,
    how: SearchMethod,
    *,
    reranker: NgramReranker | None = None,
    batch_size: int = 64,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Return the best caption of each of the cached images at ``places``.

    Args:
        cached_model: Put into evaluation mode for the time of the call.
        cache: Features of the images.
        places: Their rows, in the order of the captions returned.
        vocabulary: The decoder's words.
        how: The search.
        reranker: N-gram reranking of the model; needed by searches with a ``rerank_weight``.
        batch_size: Images searched together; it changes no caption.
        watch: Told how many images are done, of how many.
    """
    decoder = cached_model.decoder
    constraints = TokenConstraints.resolve(how, vocabulary)
    captions: list[str] = []
    with _evaluating(cached_model):
        for start in range(0, len(places), batch_size):
            rows = torch.tensor(places[start : start + batch_size])
            features = cached_model.encode(cache, rows)
            found = search(
                decoder.step,
                decoder.start(features),
                how,
                constraints,
                rerank=None if reranker is None else reranker.prepare(features.vector),
            )
            captions += [join_words(vocabulary.decode(best[0].tokens)) for best in found]
            watch(len(captions), len(places))
    return captions


@torch.inference_mode()
def perplexity(
    cached_model: CachedModel,
    cache: CacheRows,
    captions: Sequence[Sequence[Sequence[int]]],
    *,
    batch_size: int = 500,
) -> float:
    """Return the perplexity of people's captions: ``exp`` of the mean negative log-likelihood.

    Every word counts once, ``<eos>`` and ``<unk>`` among them, as in language modelling.

    Args:
        cached_model: Put into evaluation mode for the time of the call.
        cache: Features of the images.
        captions: For each image its captions, each from ``<bos>`` to ``<eos>``; none where it
            could not be read.
        batch_size: Captions that go through the network together.

    Raises:
        DataError: There is no caption at all.
    """
    total, words = 0.0, 0
    with _evaluating(cached_model):
        for batch in CaptionDataset(captions).batches(batch_size, per_image=5):
            features = cached_model.encode(cache, batch.images)
            inputs: PackedSequence = batch.inputs.to(cached_model.device)  # type: ignore[arg-type]
            logits = cached_model.decoder(features, inputs, batch.image.to(cached_model.device))
            result = cross_entropy(logits, batch.targets.to(cached_model.device))
            total += result.nll.item() * result.words
            words += result.words
    return math.exp(total / words)
