"""Writing of model directories: a directory is replaced as a whole, or left unchanged."""

import json
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
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
from captioning.checkpoint.model_card import format_card
from captioning.decoding import search_to_json
from captioning.errors import ConfigError, OutputError
from captioning.files import replace_atomic
from captioning.messages import explain_error
from captioning.nn.activation_ranges import ActivationRanges
from captioning.nn.external_encoder import ExternalEncoder
from captioning.nn.model import CaptionModel

_IGNORED_FILES = {".DS_Store", ".ipynb_checkpoints", "Thumbs.db", "desktop.ini"}
"""Files that file managers and notebooks create; they are removed with an older model."""


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
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        fresh.chmod(0o755)
        try:
            _write_files(checkpoint, fresh, dtype)
            _replace_directory(fresh, directory)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except (OSError, SafetensorError) as error:  # safetensors raises its own error on a full disk
        raise OutputError(
            f"cannot write the model to '{directory}': {error}. Free space, or use another "
            "directory."
        ) from error


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
    _write_json(directory / CONFIG_FILE, asdict(config))
    if not isinstance(model.encoder, ExternalEncoder):
        _write_json(directory / PREPROCESSOR_FILE, asdict(model.encoder.preprocessing))
    _write_json(directory / GENERATION_FILE, search_to_json(checkpoint.search))
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


def _write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, ensure_ascii=False, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


def _refuse_foreign(directory: Path) -> None:
    """Refuse to replace a directory that contains anything but a model of this package."""
    if not directory.exists():
        return
    if not directory.is_dir():
        raise OutputError(f"'{directory}' is a file and is not replaced. Give a directory.")
    names = {path.name for path in directory.iterdir()} - _IGNORED_FILES
    if foreign := sorted(names - MODEL_FILES):
        raise OutputError(
            f"{directory} contains {', '.join(foreign[:3])}{' and more' if foreign[3:] else ''}, "
            "which do not belong to a model, and is not replaced. Move them, or use another "
            "directory."
        )
    if names and not _is_own_config(directory / CONFIG_FILE):
        raise OutputError(
            f"{directory} contains files named like those of a model, but its {CONFIG_FILE} is not "
            "one of captioning, so it is not replaced. Use another directory."
        )


def _is_own_config(path: Path) -> bool:
    """Return whether a config is one of this package; its settings may be damaged."""
    try:
        return bool(json.loads(path.read_text(encoding="utf-8"))["format"] == "captioning")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _replace_directory(fresh: Path, directory: Path) -> None:
    """Rename ``fresh`` to ``directory`` after all its bytes are on the disk."""
    for path in fresh.iterdir():
        path.chmod(0o644)  # safetensors writes files that only their owner can read
    for path in [*fresh.iterdir(), fresh]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    if not directory.exists():
        fresh.rename(directory)
        return
    old = fresh.with_name(f"{fresh.name}-old")
    directory.rename(old)
    try:
        fresh.rename(directory)
    except OSError:
        old.rename(directory)
        raise
    shutil.rmtree(old, ignore_errors=True)
