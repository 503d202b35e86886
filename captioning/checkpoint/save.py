"""Writing of model directories: a directory is replaced as a whole, or left unchanged."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save, save_file
from torch import Tensor

from captioning.checkpoint.checkpoint import (
    CARD_FILE,
    CONFIG_FILE,
    GENERATION_FILE,
    INT8_FILE,
    MODEL_FILES,
    PREPROCESSOR_FILE,
    RERANKER_FILE,
    TIED_WEIGHT,
    VOCABULARY_FILE,
    WEIGHTS_FILE,
    Checkpoint,
    ModelConfig,
)
from captioning.checkpoint.directories import refuse_foreign_files, write_directory, write_json
from captioning.checkpoint.model_card import format_card
from captioning.decoding import search_to_json
from captioning.errors import ConfigError, OutputError
from captioning.files import replace_atomic
from captioning.messages import explain_error
from captioning.nn.activation_ranges import ActivationRanges
from captioning.nn.external_encoder import ExternalEncoder
from captioning.nn.model import CaptionModel


def save_checkpoint(
    checkpoint: Checkpoint, directory: Path | str, *, dtype: torch.dtype = torch.float32
) -> None:
    """Write a model directory atomically.

    Args:
        checkpoint: The model.
        directory: Path of the directory; an older model there is replaced.
        dtype: Type of the stored weights; ``torch.float16`` halves the file. Loading always gives
            32-bit weights.

    Raises:
        OutputError: The directory cannot be written, or contains other files than a model.
        ConfigError: The model's search needs an n-gram reranker, and the model has none.
    """
    if checkpoint.search.reranks and checkpoint.reranker is None:
        raise ConfigError(
            "the model's search has a rerank_weight, but the model has no n-gram reranker, so it "
            "could not be loaded again. Use another search, such as BeamSearch(width=3)."
        )
    directory = Path(directory)
    _refuse_foreign(directory)
    write_directory(
        directory, lambda fresh: _write_files(checkpoint, fresh, dtype), content="the model"
    )


def recover_checkpoint(directory: Path) -> None:
    """Restore a model directory that a killed process was replacing, and remove what it left."""
    for path in sorted(directory.parent.glob(f".{directory.name}-*")):
        if path.name.endswith("-old") and not directory.exists():
            path.rename(directory)
        else:
            shutil.rmtree(path, ignore_errors=True)


def save_ranges(ranges: ActivationRanges, directory: Path) -> Path:
    """Add ranges of activations to a model directory, or replace them, and return their file.

    Raises:
        OutputError: The file cannot be written.
    """
    path = directory / INT8_FILE
    try:
        replace_atomic(path, save(dict(ranges)))
    except OSError as error:
        raise OutputError(
            f"cannot write '{path}': {explain_error(error)}. Copy the model to another directory."
        ) from error
    return path


def _write_files(checkpoint: Checkpoint, directory: Path, dtype: torch.dtype) -> None:
    model = checkpoint.model
    config = ModelConfig(
        encoder=model.encoder.config,
        decoder=model.decoder.config,
        sizes=model.decoder.sizes,
        info=checkpoint.info,
    )
    save_file(_weights(model, dtype), directory / WEIGHTS_FILE, {"format": "pt"})
    checkpoint.vocabulary.save(directory / VOCABULARY_FILE)
    write_json(directory / CONFIG_FILE, asdict(config))
    if not isinstance(model.encoder, ExternalEncoder):
        write_json(directory / PREPROCESSOR_FILE, asdict(model.encoder.preprocessing))
    write_json(directory / GENERATION_FILE, search_to_json(checkpoint.search))
    if checkpoint.reranker is not None:
        save_file(checkpoint.reranker.to_tensors(), directory / RERANKER_FILE)
    if checkpoint.ranges is not None:
        save_file(dict(checkpoint.ranges), directory / INT8_FILE)
    (directory / CARD_FILE).write_text(format_card(checkpoint), encoding="utf-8")


def _weights(model: CaptionModel, dtype: torch.dtype) -> dict[str, Tensor]:
    state = model.state_dict()
    if model.decoder.config.tie_weights:
        del state[TIED_WEIGHT]
    return {
        name: tensor.detach().cpu().to(dtype if tensor.is_floating_point() else tensor.dtype)
        .contiguous()
        for name, tensor in state.items()
    }  # fmt: skip


def _refuse_foreign(directory: Path) -> None:
    """Refuse to replace a directory that contains anything but a model of this package."""
    has_files = refuse_foreign_files(directory, MODEL_FILES, kind="a model")
    if has_files and not _is_own_config(directory / CONFIG_FILE):
        raise OutputError(
            f"the directory '{directory}' is not replaced, because its {CONFIG_FILE} was not "
            "written by captioning. Use another directory."
        )


def _is_own_config(path: Path) -> bool:
    """Return whether a config is one of this package; its settings may be damaged."""
    try:
        return bool(json.loads(path.read_text(encoding="utf-8"))["format"] == "captioning")
    except (OSError, ValueError, KeyError, TypeError):
        return False
