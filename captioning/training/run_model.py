"""The trainer of a run, and its model as a checkpoint."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from captioning.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from captioning.decoding import BeamSearch
from captioning.features.cached_model import CachedModel
from captioning.nn.model import CaptionModel
from captioning.nn.split_encoder import split_encoder
from captioning.training.callback import TrainingCallback
from captioning.training.config import RunConfig
from captioning.training.model_info import describe_model
from captioning.training.prepare import Prepared
from captioning.training.self_critical import SelfCriticalObjective
from captioning.training.trainer import Trainer


def create_trainer(config: RunConfig, prepared: Prepared, callback: TrainingCallback) -> Trainer:
    """Return the trainer of a run."""
    objective = None
    if config.training.objective == "self_critical":
        callback.on_phase("Preparing rewards")
        objective = SelfCriticalObjective(
            prepared.words,
            prepared.vocabulary,
            config.training.self_critical,
            callback.on_progress,
        )
    return Trainer(
        prepared.decoder,
        prepared.dataset,
        prepared.train.cache,
        config.training,
        tail=prepared.tail,
        self_critical=objective,
        text_concepts=prepared.text_concepts,
    )


def build_checkpoint(
    trained: CachedModel,
    config: RunConfig,
    prepared: Prepared,
    epoch: int,
    scores: Mapping[str, float],
) -> Checkpoint:
    """Return a trained model with its whole encoder.

    Args:
        trained: The decoder and the trained stages of the encoder.
        config: The run.
        prepared: Its data, and the encoder.
        epoch: Number of the epoch, from 1; 0 for the initial model.
        scores: Scores of greedy captions of the validation images.
    """
    info = describe_model(config, prepared, epoch, scores)
    encoder = prepared.encoder
    if trained.tail is not None:
        encoder = copy.deepcopy(encoder)
        tail = split_encoder(encoder, config.training.fine_tune_stages)[1]
        tail.load_state_dict(trained.tail.state_dict())
    model = CaptionModel(encoder, trained.decoder)
    return Checkpoint(model, prepared.vocabulary, BeamSearch(width=3), info)


def update_license(model_dir: Path, license: str) -> None:
    """State the license of a model that was saved with another one, or with none."""
    checkpoint = load_checkpoint(model_dir)
    if checkpoint.info.license != license:
        info = replace(checkpoint.info, license=license)
        save_checkpoint(replace(checkpoint, info=info), model_dir)
