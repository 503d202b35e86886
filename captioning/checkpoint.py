"""A model as one directory, without pickle and without need of a network.

    config.json               format version, encoder, decoder, how it was made, its scores
    model.safetensors         all weights, the encoder's included
    vocabulary.json           words in id order
    preprocessor_config.json  how pictures become pixels
    generation_config.json    the search and its settings
    README.md                 the model card

Everything that the model needs is written down, so a later version of this package with other
defaults still loads the same model.
"""

import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from captioning.data.preprocessing import Preprocessing
from captioning.data.vocabulary import Vocabulary
from captioning.decoding import SearchMethod, search_from_json, search_to_json
from captioning.errors import CaptioningError, CheckpointError, OutputError, nearest
from captioning.nn.decoder import Decoder
from captioning.nn.encoder import Encoder, EncoderConfig
from captioning.nn.model import CaptionModel
from captioning.nn.options import DecoderConfig

FORMAT_VERSION = 1
_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_VOCABULARY = "vocabulary.json"
_PREPROCESSOR = "preprocessor_config.json"
_GENERATION = "generation_config.json"
_CARD = "README.md"
_BEFORE: dict[type, dict[str, Any]] = {
    DecoderConfig: {
        "top_down": False,
        "recurrent_dropout": 0.0,
        "layers": 1,
        "factored": False,
        "multimodal": False,
        "embedding_layers": 1,
        "reconstruct": False,
    }
}
"""Settings that older models do not name, and what was the case before they could be chosen."""
_FILES = (_CONFIG, _WEIGHTS, _VOCABULARY, _PREPROCESSOR, _GENERATION, _CARD)


@dataclass(frozen=True)
class Checkpoint:
    """A model and all that goes with it.

    Attributes:
        model: Encoder and decoder.
        vocabulary: The words of the decoder's ids.
        search: How it is decoded unless the caller says otherwise.
        info: How it was made and what it scored; written into ``config.json`` and the card.
    """

    model: CaptionModel
    vocabulary: Vocabulary
    search: SearchMethod
    info: dict[str, Any] = field(default_factory=dict)


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
    """
    directory = Path(directory)
    _refuse_foreign(directory)
    config = {
        "format": "captioning",
        "format_version": FORMAT_VERSION,
        "encoder": asdict(checkpoint.model.encoder.config),
        "decoder": asdict(checkpoint.model.decoder.config),
        "info": checkpoint.info,
    }
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        fresh.chmod(0o755)
        try:
            save_file(_weights(checkpoint.model, dtype), fresh / _WEIGHTS, {"format": "pt"})
            checkpoint.vocabulary.save(fresh / _VOCABULARY)
            _write_json(fresh / _CONFIG, config)
            _write_json(fresh / _PREPROCESSOR, asdict(checkpoint.model.encoder.preprocessing))
            _write_json(fresh / _GENERATION, search_to_json(checkpoint.search))
            (fresh / _CARD).write_text(model_card(checkpoint), encoding="utf-8")
            _settle(fresh, directory)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise OutputError(
            f"The model cannot be written to {directory}: {error}. Give another directory."
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
    names = {path.name for path in directory.iterdir()} if directory.is_dir() else {"a file"}
    if names and not (names <= set(_FILES) and _is_ours(directory / _CONFIG)):
        raise OutputError(
            f"{directory} exists and is no model directory of this package alone, so it is left "
            "as it is. Give a new directory."
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


def model_card(checkpoint: Checkpoint) -> str:
    """Return the model's README: what it is, what it was trained on, what it scores."""
    encoder, decoder = checkpoint.model.encoder, checkpoint.model.decoder.config
    layers = f"{decoder.layers}-layer " if decoder.layers > 1 else ""
    attention = " with soft attention over the grid" if decoder.attention else ""
    info = checkpoint.info
    lines = [
        "---",
        "license: apache-2.0",
        "library_name: captioning",
        "pipeline_tag: image-to-text",
        "---",
        "",
        f"# {info.get('name', 'An image captioner')}",
        "",
        f"`{encoder.config.name}` at {encoder.preprocessing.size} pixels, then a "
        f"{layers}{decoder.cell} decoder{attention}; the image enters by `{decoder.injection}`. "
        f"{len(checkpoint.vocabulary)} words.",
        "",
        "```python",
        "from captioning import Captioner",
        "",
        'captioner = Captioner.from_pretrained("this directory")',
        'print(captioner.caption("photo.jpg").text)',
        "```",
        "",
        "## Made from",
        "",
        *(f"- {key}: {_plain(value)}" for key, value in info.get("training", {}).items()),
        "",
        "## Scores",
        "",
        *(f"- {key}: {value}" for key, value in info.get("scores", {}).items()),
        "",
        "## Limits",
        "",
        *info.get("limits", ["It describes what its training photos show, and guesses the rest."]),
    ]
    return "\n".join(lines) + "\n"


def _plain(value: object) -> str:
    return "; then ".join(map(str, value)) if isinstance(value, list) else str(value)


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
    if not directory.is_dir():
        raise CheckpointError(
            f"There is no model directory {directory}. "
            "Train one with `captioning train`, or name no model to use the default one."
        )
    config = _read_json(directory / _CONFIG)
    if config.get("format") != "captioning" or not isinstance(config.get("format_version"), int):
        raise CheckpointError(
            f"{directory / _CONFIG} is not of this package: it has no "
            '"format": "captioning" and format_version.'
        )
    if config["format_version"] > FORMAT_VERSION:
        raise CheckpointError(
            f"{directory} has format version {config['format_version']}, this package reads up to "
            f"{FORMAT_VERSION}. Update it: pip install -U captioning."
        )
    encoder_config = _build(EncoderConfig, config.get("encoder"), directory / _CONFIG, "encoder")
    decoder_config = _build(DecoderConfig, config.get("decoder"), directory / _CONFIG, "decoder")
    preprocessing = _build(
        Preprocessing, _read_json(directory / _PREPROCESSOR), directory / _PREPROCESSOR
    )
    vocabulary = _translated(lambda: Vocabulary.load(directory / _VOCABULARY))
    generation = _read_json(directory / _GENERATION)
    search = _translated(lambda: search_from_json(generation), directory / _GENERATION)
    weights = _read_weights(directory / _WEIGHTS)
    _check_sizes(directory, decoder_config, vocabulary, weights)
    model = _translated(
        lambda: CaptionModel(
            Encoder(_untrained(encoder_config), preprocessing), Decoder(decoder_config)
        ),
        directory / _CONFIG,
    )
    model.encoder.config = encoder_config
    _fill(model, weights, directory / _WEIGHTS)
    info = config.get("info")
    return Checkpoint(
        model.to(device).eval(), vocabulary, search, info if isinstance(info, dict) else {}
    )


def _untrained(config: EncoderConfig) -> EncoderConfig:
    return EncoderConfig(config.name, None, config.image_size, config.fit)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.parent} has no {path.name}: it is no model directory, or not all of it was "
            "copied."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read as JSON: {error}. Copy the model again."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object. Copy the model again.")
    return content


def _build(kind: Any, content: Any, path: Path, part: str = "settings") -> Any:
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} has no {part}. Copy the model again.")
    content = {**_BEFORE.get(kind, {}), **content}
    known = {entry.name for entry in fields(kind)}
    for name in content:
        if name not in known:
            raise CheckpointError(
                f"{path}: {name!r} is not among the {part}'s settings.{nearest(name, known)} "
                "A newer version of this package may know it."
            )
    if lacking := sorted(known - set(content)):
        raise CheckpointError(f"{path}: the {part} lacks {', '.join(lacking)}.")
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}
    return _translated(lambda: kind(**values), path)


def _translated(make: Any, path: Path | None = None) -> Any:
    """Return ``make()``; what it raises becomes a CheckpointError."""
    try:
        return make()
    except CheckpointError:
        raise
    except (CaptioningError, TypeError, ValueError, RuntimeError, KeyError) as error:
        where = f"{path}: " if path else ""
        raise CheckpointError(f"{where}{error}") from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(
            f"{path.parent} has no {path.name}: it is no model directory, or not all of it was "
            "copied."
        )
    try:
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged or cut short ({error}). Copy the model again."
        ) from error
    return {name: t.float() if t.is_floating_point() else t for name, t in weights.items()}


def _check_sizes(
    directory: Path, config: DecoderConfig, vocabulary: Vocabulary, weights: dict[str, Tensor]
) -> None:
    """Compare the files with each other before memory is taken for what the settings ask."""
    if len(vocabulary) != config.vocabulary_size:
        raise CheckpointError(
            f"{directory}: the vocabulary has {len(vocabulary)} words, the decoder "
            f"{config.vocabulary_size}. The files belong to different models."
        )
    expected = (config.vocabulary_size, config.embedding_size)
    recurrent = weights.get("decoder.cell.W_hh")
    embedding = weights.get("decoder.embedding.weight")
    if recurrent is None or embedding is None:
        raise CheckpointError(f"{directory / _WEIGHTS} holds no decoder of this package.")
    if tuple(embedding.shape) != expected or recurrent.shape[-1] != config.hidden_size:
        raise CheckpointError(
            f"{directory}: {_WEIGHTS} has word vectors {tuple(embedding.shape)} and hidden size "
            f"{recurrent.shape[-1]}, {_CONFIG} says {expected} and {config.hidden_size}. "
            "The files belong to different models."
        )


def _fill(model: CaptionModel, weights: dict[str, Tensor], path: Path) -> None:
    own = model.state_dict()
    if model.decoder.config.tie_weights and "decoder.embedding.weight" in weights:
        weights["decoder.W_rw.weight"] = weights["decoder.embedding.weight"]
    for problem, names in (("lacks", set(own) - set(weights)), ("adds", set(weights) - set(own))):
        if names:
            raise CheckpointError(
                f"{path} {problem} {len(names)} tensors, {sorted(names)[0]} among them. "
                "The files belong to different models."
            )
    for name, tensor in weights.items():
        if tensor.shape != own[name].shape:
            raise CheckpointError(
                f"{path}: {name} has the shape {tuple(tensor.shape)}, the model "
                f"{tuple(own[name].shape)}. The files belong to different models."
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} holds values that are no finite numbers.")
    model.load_state_dict(weights)
