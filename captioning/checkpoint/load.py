"""Reading of model directories.

The files may come from anyone. Shapes are compared with the weights file before memory of the size
that the config asks for is allocated, so loading takes at most 1 GiB plus four times the size of
both weights files.
"""

import os
from pathlib import Path

import torch

from captioning.checkpoint.checkpoint import (
    CONFIG_FILE,
    GENERATION_FILE,
    INT8_FILE,
    PREPROCESSOR_FILE,
    RERANKER_FILE,
    VOCABULARY_FILE,
    WEIGHTS_FILE,
    Checkpoint,
    ModelConfig,
)
from captioning.checkpoint.restore import build_empty, check_tensors, name_file, restore
from captioning.checkpoint.weights_file import open_weights
from captioning.decoding import SearchMethod, search_from_json
from captioning.decoding.constraints import TokenConstraints
from captioning.errors import CheckpointError
from captioning.images.preprocessing import Preprocessing
from captioning.json_data import read_json
from captioning.nn.activation_ranges import ActivationRanges, check_ranges
from captioning.nn.decoder_config import DecoderSizes
from captioning.nn.encoder import Encoder
from captioning.nn.encoder_config import EXTERNAL
from captioning.reranking.ngram import NgramReranker
from captioning.text.vocabulary import Vocabulary

_MAX_RANGES_BYTES = 16 * 2**20


def load_checkpoint(directory: Path | str, *, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a model directory.

    Args:
        directory: Directory that :func:`save_checkpoint` wrote.
        device: Device of the model.

    Returns:
        The model in evaluation mode, with 32-bit weights.

    Raises:
        CheckpointError: A file is missing or damaged, or does not fit the others.
    """
    directory = Path(directory)
    _check_directory(directory)
    path = directory / CONFIG_FILE
    config = read_json(path, ModelConfig, require_all=True, error=CheckpointError)
    preprocessing = None
    if config.encoder.name != EXTERNAL:
        preprocessing = read_json(
            directory / PREPROCESSOR_FILE, Preprocessing, require_all=True, error=CheckpointError
        )
    with name_file(directory / VOCABULARY_FILE):
        vocabulary = Vocabulary.load(directory / VOCABULARY_FILE)
    if len(vocabulary) != config.sizes.vocabulary_size:
        raise CheckpointError(
            f"{directory}: {VOCABULARY_FILE} has {len(vocabulary)} words, {CONFIG_FILE} says "
            f"{config.sizes.vocabulary_size}. The files belong to different models."
        )
    search = _read_search(directory / GENERATION_FILE, vocabulary)
    with name_file(path):
        model = build_empty(config.encoder, config.decoder, config.sizes, preprocessing)
    with open_weights(directory / WEIGHTS_FILE) as weights:
        check_tensors(model, weights)
        restore(model, weights)
    reranker = _read_reranker(directory / RERANKER_FILE, search, config.sizes)
    ranges = _read_ranges(directory / INT8_FILE, model.encoder)
    return Checkpoint(model.to(device).eval(), vocabulary, search, config.info, reranker, ranges)


def _check_directory(directory: Path) -> None:
    # os.path does not raise where a name is too long or a folder is not readable.
    if not os.path.isdir(directory):  # noqa: PTH112
        raise CheckpointError(
            f"there is no model directory '{directory}'. Check the path, or train a model with "
            "`captioning train`."
        )
    if not os.path.lexists(directory / CONFIG_FILE):
        inner = directory / "model"  # of a training run
        is_run = os.path.isfile(inner / CONFIG_FILE)  # noqa: PTH113
        raise CheckpointError(
            f"'{directory}' is not a model directory, or is not complete: it has no {CONFIG_FILE}. "
            f"{f'Did you mean {inner}?' if is_run else 'Copy the model again.'}"
        )


def _read_search(path: Path, vocabulary: Vocabulary) -> SearchMethod:
    content = read_json(path, dict, error=CheckpointError)
    with name_file(path):
        search = search_from_json(content)
        TokenConstraints.resolve(search, vocabulary)
    return search


def _read_reranker(path: Path, search: SearchMethod, sizes: DecoderSizes) -> NgramReranker | None:
    if not os.path.lexists(path):
        if search.reranks:
            raise CheckpointError(
                f"{path.parent / GENERATION_FILE} has a rerank_weight, but {path.name} is missing: "
                "the model is not complete. Copy it again."
            )
        return None
    with open_weights(path) as weights:
        tensors = {name: weights.read(name) for name in weights.tensors}
    with name_file(path):
        return NgramReranker.from_tensors(
            tensors, vocabulary_size=sizes.vocabulary_size, feature_size=sizes.feature_size
        )


def _read_ranges(path: Path, encoder: Encoder) -> ActivationRanges | None:
    if not os.path.lexists(path):
        return None
    with open_weights(path, _MAX_RANGES_BYTES) as file, name_file(path):
        ranges = {name: file.read(name) for name in file.tensors}
        check_ranges(encoder, ranges)
    return ranges
