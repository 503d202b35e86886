"""Description of a run in the info and the card of its model."""

from collections.abc import Mapping

import torch

from captioning.checkpoint import ModelInfo, TrainingInfo
from captioning.datasets import shorten_spec
from captioning.messages import format_count
from captioning.training.config import RunConfig
from captioning.training.data import EncodedSplit
from captioning.training.prepare import Prepared
from captioning.training.training_config import TrainingConfig


def describe_model(
    config: RunConfig, prepared: Prepared, epoch: int, scores: Mapping[str, float]
) -> ModelInfo:
    """Return the info of the model after an epoch; 0 is the initial model.

    Args:
        config: The run.
        prepared: Its data.
        epoch: Number of the epoch.
        scores: Scores of greedy captions of the validation images.
    """
    before = prepared.initial_training
    training = before
    if epoch:
        captions = len(prepared.dataset)
        training = TrainingInfo(
            data=_describe_data(config, prepared.train, captions),
            epochs=epoch,
            seed=config.training.seed,
            torch=torch.__version__,
            runs=(*(before.runs if before else ()), _describe_run(config, epoch)),
        )
    images = format_count(len(prepared.validation.readable), "image")
    return ModelInfo(
        training=training,
        scores={
            f"{name} (greedy, {config.validation_split}, {images})": round(value, 4)
            for name, value in scores.items()
        },
        license=config.license,
    )


def _describe_run(config: RunConfig, epoch: int) -> str:
    """Return a line about objective, epochs, and trained parts of a run."""
    training = config.training
    tunes = training.fine_tune_stages and epoch >= training.encoder_start_epoch
    stages = f"the last {training.fine_tune_stages} encoder stages and the decoder"
    return (
        f"{_describe_objective(training)}, epoch {epoch} of {training.epochs}, "
        f"{stages if tunes else 'decoder only'}"
        f"{', online augmentation' if training.online_augmentation else ''}"
        f"{f', features from {config.features.name}' if config.features else ''}"
    )


def _describe_objective(training: TrainingConfig) -> str:
    if training.objective == "cross_entropy":
        return "teacher forcing"
    config = training.self_critical
    weights = {"BLEU-4": config.bleu_weight, "cross-entropy": config.cross_entropy_weight}
    terms = [f" + {weight:g} {name}" for name, weight in weights.items() if weight]
    dropout = f", feature dropout {config.feature_dropout:g}" if config.feature_dropout else ""
    return f"self-critical training with CIDEr-D{''.join(terms)}{dropout}"


def _describe_data(config: RunConfig, train: EncodedSplit, captions: int) -> str:
    """Return the names of the data sets, without directories, and the size of the split."""
    names = [shorten_spec(data) for data in config.data]
    names += [config.text_data.name] if config.text_data else []
    images = len(train.readable)
    return f"{' + '.join(names)}, split {train.split}: {images} images, {captions} captions"
