"""A model as one directory, without pickle and without need of a network.

    config.json               format version, encoder, decoder, how it was made, its scores
    model.safetensors         all weights, the encoder's included
    vocabulary.json           words in id order
    preprocessor_config.json  how images become pixels
    generation_config.json    the search and its settings
    rerank.safetensors       the n-grams that v makes likely, where the model has learned them
    README.md                 the model card

Everything that the model needs is written down, so a later version of this package with other
defaults still loads the same model. Whoever wrote the directory is not believed: nothing of the
size that its settings ask for is made before they were compared with the weights that are there, so
that loading takes at most 1 GiB and four times the size of both files of weights.
"""

import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from captioning.checkpoint.json_files import translated
from captioning.checkpoint.model_card import model_card
from captioning.checkpoint.model_info import ModelInfo
from captioning.checkpoint.stored_weights import check_shapes, fill, sketch
from captioning.checkpoint.weights_file import WeightsFile, open_weights
from captioning.decoding import SearchMethod, search_from_json, search_to_json
from captioning.decoding.constraints import TokenConstraints
from captioning.errors import CheckpointError, ConfigError, DataError, OutputError
from captioning.images.preprocessing import Preprocessing
from captioning.json_data import read_json
from captioning.nn.decoder_config import DecoderConfig, DecoderSizes
from captioning.nn.encoder import EncoderConfig
from captioning.nn.model import CaptionModel
from captioning.reranking.ngram import NgramReranker
from captioning.text.vocabulary import Vocabulary

FORMAT_VERSION = 1
_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_VOCABULARY = "vocabulary.json"
_PREPROCESSOR = "preprocessor_config.json"
_GENERATION = "generation_config.json"
_RERANKER = "rerank.safetensors"
_CARD = "README.md"
_FILES = (_CONFIG, _WEIGHTS, _VOCABULARY, _PREPROCESSOR, _GENERATION, _RERANKER, _CARD)

_LITTER = {".DS_Store", ".ipynb_checkpoints", "Thumbs.db", "desktop.ini"}
"""What file managers and notebooks leave in folders that are looked at."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Content of ``config.json``."""

    format: Literal["captioning"] = "captioning"
    format_version: int = FORMAT_VERSION
    encoder: EncoderConfig
    decoder: DecoderConfig
    sizes: DecoderSizes
    info: ModelInfo

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise CheckpointError(
                f"format_version is {self.format_version}, this package reads {FORMAT_VERSION}. "
                "Update it: pip install -U captioning"
            )


@dataclass(frozen=True)
class Checkpoint:
    """A model and all that goes with it.

    Attributes:
        model: Encoder and decoder.
        vocabulary: The words of the decoder's ids.
        search: How it is decoded unless the caller says otherwise.
        info: How it was made and what it scored; written into ``config.json`` and the card.
        reranker: N-gram reranking, needed by searches with a ``rerank_weight``; None for none.
    """

    model: CaptionModel
    vocabulary: Vocabulary
    search: SearchMethod
    info: ModelInfo = field(default_factory=ModelInfo)
    reranker: NgramReranker | None = None


# --- writing ----------------------------------------------------------------------------------


def save_checkpoint(
    checkpoint: Checkpoint, directory: Path | str, *, dtype: torch.dtype = torch.float32
) -> None:
    """Write a model directory: whole, or not at all.

    Args:
        checkpoint: The model.
        directory: Where; an older model there is replaced.
        dtype: ``torch.float16`` halves the file; loading always gives 32-bit weights.

    Raises:
        OutputError: The directory cannot be written, or holds something that is no model.
        ConfigError: The model's search counts n-grams, and it has none.
    """
    if checkpoint.search.reranks and checkpoint.reranker is None:
        raise ConfigError(
            "The model's search has a rerank_weight, and the model has no n-grams: it could not be "
            "loaded again. Give it another search, such as BeamSearch(width=3)."
        )
    directory = Path(directory)
    _refuse_foreign(directory)
    config = ModelConfig(
        encoder=checkpoint.model.encoder.config,
        decoder=checkpoint.model.decoder.config,
        sizes=checkpoint.model.decoder.sizes,
        info=checkpoint.info,
    )
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        fresh.chmod(0o755)
        try:
            save_file(_weights(checkpoint.model, dtype), fresh / _WEIGHTS, {"format": "pt"})
            checkpoint.vocabulary.save(fresh / _VOCABULARY)
            _write_json(fresh / _CONFIG, asdict(config))
            _write_json(fresh / _PREPROCESSOR, asdict(checkpoint.model.encoder.preprocessing))
            _write_json(fresh / _GENERATION, search_to_json(checkpoint.search))
            if checkpoint.reranker is not None:
                save_file(checkpoint.reranker.to_tensors(), fresh / _RERANKER)
            ngrams = len(checkpoint.reranker or ())
            card = model_card(
                checkpoint.model,
                len(checkpoint.vocabulary),
                checkpoint.info,
                checkpoint.search,
                ngrams=ngrams,
            )
            (fresh / _CARD).write_text(card, encoding="utf-8")
            _settle(fresh, directory)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except (OSError, SafetensorError) as error:  # the latter is a full disk's, too
        raise OutputError(
            f"The model cannot be written to {directory}: {error}. Make room, or give another "
            "directory."
        ) from error


def _weights(model: CaptionModel, dtype: torch.dtype) -> dict[str, Tensor]:
    state = model.state_dict()
    if model.decoder.config.tie_weights:
        del state["decoder.W_rw.weight"]  # the word vectors, once more
    return {
        name: tensor.detach().cpu().to(dtype if tensor.is_floating_point() else tensor.dtype)
        .contiguous()
        for name, tensor in state.items()
    }  # fmt: skip


def _write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, ensure_ascii=False, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


def _refuse_foreign(directory: Path) -> None:
    """Replace nothing but a model of ours, with nothing beside it that somebody put there."""
    if not directory.exists():
        return
    if not directory.is_dir():
        raise OutputError(f"{directory} is a file, so it is left as it is. Give a directory.")
    names = {path.name for path in directory.iterdir()} - _LITTER
    if foreign := sorted(names - set(_FILES)):
        raise OutputError(
            f"{directory} holds {', '.join(foreign[:3])}{' and more' if foreign[3:] else ''}, "
            "which is no part of a model, so it is left as it is. Take that away and try again, "
            "or give another directory."
        )
    if names and not _is_ours(directory / _CONFIG):
        raise OutputError(
            f"{directory} holds files called like a model's, and no model of this package, so it "
            "is left as it is. Give another directory."
        )


def _is_ours(config: Path) -> bool:
    try:
        return bool(json.loads(config.read_text(encoding="utf-8"))["format"] == "captioning")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _settle(fresh: Path, directory: Path) -> None:
    """Put ``fresh`` in the place of ``directory``, once all its bytes are on the disk."""
    for path in fresh.iterdir():
        path.chmod(0o644)  # safetensors lets nobody else read what it writes
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


# --- reading ----------------------------------------------------------------------------------


def load_checkpoint(directory: Path | str, *, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a model directory.

    Args:
        directory: What :func:`save_checkpoint` wrote.
        device: Where the model is put.

    Returns:
        The model in evaluation mode, with 32-bit weights.

    Raises:
        CheckpointError: A part is missing, damaged, or does not fit the others; the message says
            which.
    """
    directory = Path(directory)
    if not _is_directory(directory):
        raise CheckpointError(
            f"There is no model directory {directory}. "
            "Train one with `captioning train`, or name no model to use the default one."
        )
    path = directory / _CONFIG
    config = read_json(path, ModelConfig, require_all=True, error=CheckpointError)
    encoder, decoder, sizes = config.encoder, config.decoder, config.sizes
    prepare = directory / _PREPROCESSOR
    preprocessing = read_json(prepare, Preprocessing, require_all=True, error=CheckpointError)
    vocabulary = translated(
        lambda: Vocabulary.load(directory / _VOCABULARY), directory / _VOCABULARY
    )
    search = _read_search(directory / _GENERATION, vocabulary)
    with open_weights(directory / _WEIGHTS) as weights:
        _check_sizes(directory, decoder, sizes, vocabulary, weights)
        model = sketch(encoder, decoder, sizes, preprocessing, path)
        check_shapes(model, weights)
        fill(model, weights)
    reranker = _read_reranker(directory / _RERANKER, search, sizes)
    return Checkpoint(model.to(device).eval(), vocabulary, search, config.info, reranker)


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # its name is too long, or nobody may look
        return False


def _read_search(path: Path, vocabulary: Vocabulary) -> SearchMethod:
    content = read_json(path, dict, error=CheckpointError)
    search: SearchMethod = translated(lambda: search_from_json(content), path)
    translated(lambda: TokenConstraints.resolve(search, vocabulary), path)
    return search


def _read_reranker(path: Path, search: SearchMethod, sizes: DecoderSizes) -> NgramReranker | None:
    if os.path.lexists(path):
        with open_weights(path) as weights:
            tensors = {name: weights.read(name) for name in weights.tensors}
        try:
            return NgramReranker.from_tensors(
                tensors,
                vocabulary_size=sizes.vocabulary_size,
                feature_size=sizes.feature_size,
            )
        except DataError as error:
            raise CheckpointError(f"{path}: {error}. Copy the model again.") from error
    if search.reranks:
        raise CheckpointError(
            f"{path.parent / _GENERATION} has a rerank_weight, and there is no {path.name}: not "
            "all of the model was copied. Copy it again."
        )
    return None


def _check_sizes(
    directory: Path,
    config: DecoderConfig,
    sizes: DecoderSizes,
    vocabulary: Vocabulary,
    weights: WeightsFile,
) -> None:
    """Compare the files with each other where a reader can be told most plainly."""
    if len(vocabulary) != sizes.vocabulary_size:
        raise CheckpointError(
            f"{directory}: the vocabulary has {len(vocabulary)} words, the decoder "
            f"{sizes.vocabulary_size}. The files belong to different models."
        )
    expected = (sizes.vocabulary_size, config.embedding_size)
    recurrent = weights.tensors.get("decoder.core.cell.W_hh")
    embedding = weights.tensors.get("decoder.embedding.weight")
    if recurrent is None or embedding is None:
        raise CheckpointError(
            f"{directory / _WEIGHTS} holds no decoder of this package. Copy the model again."
        )
    if embedding.shape != expected or recurrent.shape[-1:] != (config.hidden_size,):
        raise CheckpointError(
            f"{directory}: {_WEIGHTS} has word vectors {embedding.shape} and hidden size "
            f"{recurrent.shape[-1:]}, {_CONFIG} says {expected} and {config.hidden_size}. "
            "The files belong to different models."
        )
