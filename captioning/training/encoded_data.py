"""The splits of a run with the features of their images, and the encoder that they come from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from captioning.checkpoint import Checkpoint, load_checkpoint
from captioning.datasets import CaptionSplit
from captioning.errors import ConfigError
from captioning.features.external import ExternalFeatures, check_features_given
from captioning.features.extraction import ExtractionConfig
from captioning.features.row_extraction import RowExtraction, describe_space, require_space
from captioning.messages import format_count
from captioning.nn.device import resolve_device
from captioning.nn.encoder import Encoder
from captioning.nn.external_encoder import ExternalEncoder
from captioning.nn.split_encoder import EncoderFront, EncoderTail, split_encoder
from captioning.processes import process_count
from captioning.training.callback import TrainingCallback
from captioning.training.config import RunConfig
from captioning.training.data import (
    EncodedSplit,
    encode_splits,
    limit_validation,
    plan_splits,
    read_external,
    read_splits,
)
from captioning.training.precision import warn_slow_precision


@dataclass(frozen=True)
class EncodedData:
    """Features of the images of a run.

    Attributes:
        encoder: The image encoder on its device, frozen except for ``tail``.
        tail: The encoder stages to train, which read the stored rows. None: the encoder is frozen.
        initial: The initial model.
        train: The split to train on.
        validation: The split that selects the best epoch.
    """

    encoder: Encoder
    tail: EncoderTail | None
    initial: Checkpoint | None
    train: EncodedSplit
    validation: EncodedSplit


def encode_data(
    config: RunConfig, callback: TrainingCallback, *, check_stored: bool = False
) -> EncodedData:
    """Read the splits of a run, and encode the images whose features are not stored.

    Args:
        config: The run.
        callback: Receives progress and messages.
        check_stored: Read the stored features too, and encode damaged ones again.

    Raises:
        DataError: The images cannot be used.
        WeightsError: The encoder's weights are not available.
        CheckpointError: The initial model cannot be loaded.
        ConfigError: The config does not fit the encoder or this machine.
        OutputError: The cache cannot be written, or its disk is too small.
    """
    _check_processes(config)
    train_splits, validation_splits = read_splits(config, callback)
    validation_splits = limit_validation(validation_splits, config.validation_limit, callback)
    callback.on_phase("Loading the encoder")
    device = resolve_device(config.device)
    if warning := warn_slow_precision(config.training.encoder_precision, device):
        callback.on_message(warning)

    torch.manual_seed(config.training.seed)  # of an encoder with random weights
    initial = load_checkpoint(config.init_from, device=device) if config.init_from else None
    encoder = initial.model.encoder if initial else _build_encoder(config, train_splits).to(device)
    check_features_given(encoder, config.features)
    _check_concepts(config, initial)
    _report_ignored_weights(encoder, callback)
    stages = config.training.fine_tune_stages
    front, tail = split_encoder(encoder, stages) if stages else (encoder, None)
    attention = _uses_attention(config, initial)
    train, validation = _read_features(
        front,
        (train_splits, validation_splits),
        config,
        callback,
        grid=attention or tail is not None,
        check_stored=check_stored,
    )
    return EncodedData(encoder, tail, initial, train, validation)


def _check_processes(config: RunConfig) -> None:
    """Refuse what several processes cannot share.

    Each draws the crops of all images of a batch, and only those who have images would.
    """
    if process_count() > 1 and config.training.online_augmentation and config.text_data:
        raise ConfigError(
            f"online_augmentation with text_data needs one process, and the job has "
            f"{process_count()}. Remove one of the two options, or start one process."
        )


def _read_features(
    encoder: Encoder | EncoderFront,
    splits: tuple[list[CaptionSplit], list[CaptionSplit]],
    config: RunConfig,
    callback: TrainingCallback,
    *,
    grid: bool,
    check_stored: bool,
) -> tuple[EncodedSplit, EncodedSplit]:
    """Return the training and the validation split with their features.

    The space that both need is checked before the first image is encoded.
    """
    train, validation = splits
    if config.features is not None:
        return (
            read_external(encoder.feature_size, train, config, callback),
            read_external(encoder.feature_size, validation, config, callback, check=True),
        )
    augmented, plain = (_extraction(config, grid=grid, augment=each) for each in (True, False))
    train_plan = plan_splits(encoder, train, config, augmented, callback)
    plan = plan_splits(encoder, validation, config, plain, callback)
    if check_stored:
        _remove_damaged(train_plan + plan, callback)
    if any(extraction.missing for extraction in train_plan + plan):
        callback.on_message(describe_space(train_plan + plan))
    require_space(train_plan + plan)
    return (
        encode_splits(encoder, train, train_plan, config, callback),
        encode_splits(encoder, validation, plan, config, callback),
    )


def _remove_damaged(extractions: Sequence[RowExtraction], callback: TrainingCallback) -> None:
    callback.on_phase("Checking stored features")
    removed = sum(extraction.remove_damaged(callback.on_progress) for extraction in extractions)
    if removed:
        callback.on_message(f"Removed damaged features of {format_count(removed, 'image')}.")


def _report_ignored_weights(encoder: Encoder, callback: TrainingCallback) -> None:
    if ignored := encoder.ignored_weights:
        callback.on_message(
            f"Ignored {format_count(len(ignored), 'tensor')} of '{encoder.config.weights}', such "
            f"as {', '.join(ignored[:3])}."
        )


def _build_encoder(config: RunConfig, splits: Sequence[CaptionSplit]) -> Encoder:
    if config.features is None:
        return Encoder(config.encoder)
    return ExternalEncoder(ExternalFeatures(config.features, splits).feature_size)


def _uses_attention(config: RunConfig, initial: Checkpoint | None) -> bool:
    shape = initial.model.decoder.config if initial else config.decoder
    if config.training.doubly_stochastic_weight and not shape.uses_grid:
        raise ConfigError(
            "doubly_stochastic_weight needs attention, and the decoder has none. Use "
            "--decoder.core attention, or set the weight to 0."
        )
    return shape.uses_grid


def _check_concepts(config: RunConfig, initial: Checkpoint | None) -> None:
    shape = initial.model.decoder.config if initial else config.decoder
    count = shape.concepts or config.decoder.concepts
    if count and config.training.fine_tune_stages:
        raise ConfigError(
            f"the decoder has {count} concepts, which are fitted to a fixed encoder, but "
            f"fine_tune_stages is {config.training.fine_tune_stages}. Fine-tune the encoder first, "
            "and add the concepts in a second run with init_from."
        )
    if initial and shape.concepts and config.decoder.concepts not in (0, shape.concepts):
        raise ConfigError(
            f"decoder.concepts is {config.decoder.concepts}, but the initial model has "
            f"{shape.concepts} concepts, which are kept. Remove the option."
        )


def _extraction(config: RunConfig, *, grid: bool, augment: bool) -> ExtractionConfig:
    training = config.training
    return ExtractionConfig(
        grid=grid,
        hflip=augment and training.hflip,
        crops=training.cached_crops if augment else 0,
        workers=config.workers,
        precision=training.encoder_precision,
        dtype=config.feature_dtype,
    )
