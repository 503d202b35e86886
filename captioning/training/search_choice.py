"""Choice of the model's search after the last epoch."""

from dataclasses import replace
from pathlib import Path

from captioning.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from captioning.evaluation.search_sweep import select_search
from captioning.features.cached_model import CachedModel
from captioning.messages import format_count
from captioning.nn.device import resolve_device
from captioning.nn.split_encoder import split_encoder
from captioning.training.callback import TrainingCallback
from captioning.training.config import RunConfig
from captioning.training.fit_reranker import fit_reranker
from captioning.training.prepare import Prepared


def choose_search(
    model: Path, config: RunConfig, prepared: Prepared, callback: TrainingCallback
) -> None:
    """Store the search in a model directory whose validation captions score best.

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
        callback.on_message("The search of this model was chosen before.")
        return
    tail = None
    if stages := config.training.fine_tune_stages:
        tail = split_encoder(checkpoint.model.encoder, stages)[1]
    cached_model = CachedModel(checkpoint.model.decoder, tail)
    images = f"{config.validation_split}, {format_count(count, 'image')}"
    callback.on_message(f"Choosing the search ({images}).")
    if config.rerank_ngrams:
        checkpoint = _fit_reranker(checkpoint, cached_model, config, prepared, callback)
    rows = [readable[i * len(readable) // count] for i in range(count)]  # evenly spaced
    chosen = select_search(
        checkpoint,
        cached_model,
        split.cache,
        {row: split.captions[row] for row in rows},
        split_name=images,
        on_message=callback.on_message,
    )
    save_checkpoint(chosen, model)


def _fit_reranker(
    checkpoint: Checkpoint,
    cached_model: CachedModel,
    config: RunConfig,
    prepared: Prepared,
    callback: TrainingCallback,
) -> Checkpoint:
    images = format_count(len(prepared.train.readable), "image")
    callback.on_message(f"Learning n-grams for reranking ({images}).")
    reranker = fit_reranker(
        cached_model,
        prepared.train.cache,
        prepared.words,
        checkpoint.vocabulary,
        max_ngrams=config.rerank_ngrams,
    )
    if reranker is not None:
        callback.on_message(f"Learned {format_count(len(reranker), 'n-gram')}.")
    return replace(checkpoint, reranker=reranker)
