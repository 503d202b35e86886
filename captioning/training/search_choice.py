"""Choice of the model's search and fit of its n-gram reranker, after the last epoch."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from captioning.checkpoint import load_checkpoint, save_checkpoint
from captioning.datasets.split import pick_evenly
from captioning.errors import DataError
from captioning.evaluation.search_sweep import select_search
from captioning.features.cache import CacheRows
from captioning.features.cached_model import CachedModel
from captioning.messages import format_count
from captioning.nn.device import resolve_device
from captioning.nn.split_encoder import split_encoder
from captioning.reranking.ngram import NgramReranker
from captioning.text.caption_arrays import CaptionWords
from captioning.text.vocabulary import Vocabulary
from captioning.training.callback import TrainingCallback
from captioning.training.config import RunConfig
from captioning.training.prepare import Prepared

_SILENT = TrainingCallback()


def choose_search(
    model: Path, config: RunConfig, prepared: Prepared, callback: TrainingCallback
) -> None:
    """Choose the search whose validation captions score best, and store it with the model.

    Learns n-grams for reranking first, if the config asks for them. Does nothing if the search of
    the model was chosen before, or if there are no images to choose it on.
    """
    split = prepared.validation
    readable = split.readable
    count = min(config.search_images, len(readable))
    if not count:
        return
    checkpoint = load_checkpoint(model, device=resolve_device(config.device))
    if checkpoint.info.search_chosen:
        callback.on_message("Search already selected.")
        return
    tail = None
    if stages := config.training.fine_tune_stages:
        tail = split_encoder(checkpoint.model.encoder, stages)[1]
    cached_model = CachedModel(checkpoint.model.decoder, tail)
    images = f"{config.validation_split}, {format_count(count, 'image')}"
    callback.on_message(f"Choosing the search ({images}).")
    if config.rerank_ngrams:
        images_read = format_count(len(prepared.train.readable), "image")
        callback.on_message(f"Learning n-grams for reranking ({images_read}).")
        reranker = fit_reranker(
            cached_model,
            prepared.train.cache,
            prepared.words,
            checkpoint.vocabulary,
            max_ngrams=config.rerank_ngrams,
            callback=callback,
        )
        if reranker is not None:
            callback.on_message(f"Learned {format_count(len(reranker), 'n-gram')}.")
        checkpoint = replace(checkpoint, reranker=reranker)
    rows = pick_evenly(readable, count)
    callback.on_phase("Choosing the search")
    chosen = select_search(
        checkpoint,
        cached_model,
        split.cache,
        {row: split.captions[row] for row in rows},
        split_name=images,
        on_message=callback.on_message,
        on_progress=callback.on_progress,
    )
    save_checkpoint(chosen, model)


@torch.inference_mode()
def fit_reranker(
    cached_model: CachedModel,
    cache: CacheRows,
    captions: CaptionWords,
    vocabulary: Vocabulary,
    *,
    max_ngrams: int,
    batch_size: int = 64,
    callback: TrainingCallback = _SILENT,
) -> NgramReranker | None:
    """Fit n-gram reranking to the training images, without augmentation.

    Args:
        cached_model: The trained model; its encoder computes the vectors.
        cache: Features of the images.
        captions: Tokenized reference captions of each image. Rows after the end of the cache have
            no image and are not used.
        vocabulary: Vocabulary of the decoder.
        max_ngrams: Number of n-grams to keep.
        batch_size: Images per batch.
        callback: Receives progress.

    Returns:
        The reranker. None if the captions share no n-gram with the vocabulary, or if the decoder
        does not use the image.
    """
    captioned = np.flatnonzero(captions.captions.captions_per_image)
    rows = np.intersect1d(captioned, cache.readable)
    if not len(rows) or cached_model.decoder.config.injection == "none":
        return None
    callback.on_phase("Reading features")
    vectors = cached_model.read_vectors(
        cache, rows, batch_size=batch_size, on_progress=callback.on_progress
    )
    callback.on_phase("Learning n-grams")
    try:
        return NgramReranker.fit(
            vectors,
            captions.select(rows),
            vocabulary,
            max_ngrams=max_ngrams,
            on_progress=callback.on_progress,
        )
    except DataError:  # a finished training run does not fail because of its reranker
        return None
