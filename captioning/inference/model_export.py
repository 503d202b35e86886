"""Export of a model as graphs that other programs run: ONNX or OpenVINO.

=============  ===================================  ===========================================
graph          inputs                               outputs
=============  ===================================  ===========================================
encoder        pixels (B, 3, S, S), uint8           vector (B, D), grid (B, P, D)
decoder_start  vector (1, D), grid (1, P, D)        state_0 (1, H), ..., image_gates (1, kH), ...
decoder_step   tokens (N), state_0 (N, H), ...,     log_probs (N, V), next_state_0 (N, H), ...,
               image_gates (1, kH), ...             attention (N, P)
=============  ===================================  ===========================================

B images, and N hypotheses of one image. The inputs ``state_...`` of a step have a row per
hypothesis; ``image_...`` are the terms of the image (:class:`captioning.nn.state.ImageContext`). An
output ``next_...`` is an input of the next step. Only with attention, ``decoder_start`` reads the
grid, and ``decoder_step`` returns attention weights.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from captioning.checkpoint import Checkpoint
from captioning.checkpoint.checkpoint import (
    CARD_FILE,
    GENERATION_FILE,
    PREPROCESSOR_FILE,
    VOCABULARY_FILE,
)
from captioning.checkpoint.directories import refuse_foreign_files, write_directory, write_json
from captioning.checkpoint.model_card import format_export_card
from captioning.decoding import search_to_json
from captioning.errors import ConfigError
from captioning.nn.decoder import Decoder
from captioning.nn.encoder import Encoder
from captioning.nn.external_encoder import ExternalEncoder
from captioning.nn.features import Features
from captioning.nn.state import DecoderState, ImageContext

ExportFormat = Literal["onnx", "openvino"]
RERANKER_ARRAYS = "rerank.npz"
"""The n-gram reranker (:class:`captioning.reranking.ngram.NgramReranker`) as NumPy arrays."""
_GRAPHS = ("encoder", "decoder_start", "decoder_step")
_SUFFIXES: dict[ExportFormat, tuple[str, ...]] = {"onnx": (".onnx",), "openvino": (".xml", ".bin")}
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_OPSET = 18
_TOLERANCE = 1e-3
_FILES = frozenset(
    {CARD_FILE, GENERATION_FILE, PREPROCESSOR_FILE, VOCABULARY_FILE, RERANKER_ARRAYS}
    | {graph + suffix for graph in _GRAPHS for each in _SUFFIXES.values() for suffix in each}
)


def export_model(checkpoint: Checkpoint, directory: Path, to: ExportFormat = "onnx") -> None:
    """Write a model as graphs with vocabulary, preprocessing and search settings.

    Every graph is run once and compared with the model.

    Args:
        checkpoint: The model, on the CPU.
        directory: Output directory; an older export is replaced.
        to: Format of the graphs.

    Raises:
        ConfigError: A package is missing, or the model cannot be exported.
        OutputError: The directory contains other files, or cannot be written.
    """
    if to not in get_args(ExportFormat):
        raise ConfigError(f"to is {to!r}; use one of {', '.join(get_args(ExportFormat))}.")
    _check_packages(to)
    encoder = checkpoint.model.encoder
    if isinstance(encoder, ExternalEncoder):
        raise ConfigError(
            "cannot export the model: it has no CNN and reads external features, so there is "
            "no graph from an image to its caption. Export a model that reads images."
        )
    refuse_foreign_files(directory, _FILES, kind="an exported model")
    write_directory(
        directory, lambda fresh: _write_files(checkpoint, fresh, to), content="the exported model"
    )


def _check_packages(to: ExportFormat) -> None:
    needed = (*_PACKAGES, *(["openvino"] if to == "openvino" else []))
    if missing := [name for name in needed if find_spec(name) is None]:
        raise ConfigError(
            f"the export needs {', '.join(missing)}. Run: pip install {' '.join(missing)}"
        )


def _write_files(checkpoint: Checkpoint, directory: Path, to: ExportFormat) -> None:
    model, search = checkpoint.model, search_to_json(checkpoint.search)
    for name, graph in _build_graphs(model.encoder, model.decoder).items():
        _write_graph(graph, directory / name, to)
    checkpoint.vocabulary.save(directory / VOCABULARY_FILE)
    write_json(directory / PREPROCESSOR_FILE, asdict(model.encoder.preprocessing))
    write_json(directory / GENERATION_FILE, search)
    if checkpoint.reranker is not None:
        tensors = checkpoint.reranker.to_tensors()
        arrays: dict[str, Any] = {name: each.numpy() for name, each in tensors.items()}
        np.savez(directory / RERANKER_ARRAYS, **arrays)
    (directory / CARD_FILE).write_text(format_export_card(checkpoint), encoding="utf-8")


# --- the graphs as modules ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Graph:
    """A function of tensors with names.

    Attributes:
        module: The function.
        inputs: Example inputs, by name.
        outputs: Names of the outputs.
        rows: Number of inputs, from the first on, whose first dimension may differ from that of
            the example.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: list[str]
    rows: int = 0


class _EncoderGraph(nn.Module):
    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> tuple[Tensor | None, ...]:
        features = self.encoder(pixels)
        return features.vector, features.grid


class _StartGraph(nn.Module):
    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, vector: Tensor, grid: Tensor | None = None) -> tuple[Tensor, ...]:
        return tuple(_name_state(self.decoder.start(Features(vector, grid))).values())


class _StepGraph(nn.Module):
    """One step. Image terms that end with the first step are zero from then on."""

    def __init__(self, decoder: Decoder, names: Sequence[str]) -> None:
        super().__init__()
        self.decoder = decoder
        self.names = tuple(names)

    def forward(self, tokens: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        parts = dict(zip(self.names, tensors, strict=True))
        recurrent = tuple(part for name, part in parts.items() if name.startswith("state_"))
        terms: dict[str, Any] = {
            name.removeprefix("image_"): part
            for name, part in parts.items()
            if name.startswith("image_")
        }
        log_probs, state = self.decoder.step(tokens, DecoderState(recurrent, ImageContext(**terms)))
        ended = [torch.zeros_like(parts[name]) for name in self.ended(state)]
        attention = [] if state.attention is None else [state.attention]
        return log_probs, *state.recurrent, *ended, *attention

    def ended(self, state: DecoderState) -> list[str]:
        """Return the image terms that the state after a step does not have."""
        return [name for name in self.names if name not in _name_state(state)]


def _name_state(state: DecoderState) -> dict[str, Tensor]:
    """Return the tensors of a state that steps read, by name."""
    recurrent = {f"state_{index}": part for index, part in enumerate(state.recurrent)}
    terms = ((field.name, getattr(state.context, field.name)) for field in fields(ImageContext))
    return recurrent | {f"image_{name}": term for name, term in terms if term is not None}


def _build_graphs(encoder: Encoder, decoder: Decoder) -> dict[str, _Graph]:
    """Return the graphs, with the features of a gray image as example."""
    size = encoder.preprocessing.size
    pixels = torch.randint(
        0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        features = encoder(pixels)[:1]
    given = {"vector": features.vector}
    if decoder.config.uses_grid:
        assert features.grid is not None
        given["grid"] = features.grid
    with torch.enable_grad():  # the plain equations, as in the export
        start = decoder.start(features)
        tokens = torch.arange(3)
        rows = start.select(torch.zeros_like(tokens))
        parts = {name: part.detach() for name, part in _name_state(rows).items()}
        _, after = decoder.step(tokens, rows)
    step = _StepGraph(decoder, list(parts))
    changed = [f"state_{index}" for index in range(len(rows.recurrent))] + step.ended(after)
    outputs = ["log_probs", *(f"next_{name}" for name in changed)]
    if after.attention is not None:
        outputs.append("attention")
    return {
        "encoder": _Graph(_EncoderGraph(encoder), {"pixels": pixels}, ["vector", "grid"], rows=1),
        "decoder_start": _Graph(_StartGraph(decoder), given, list(parts)),
        "decoder_step": _Graph(
            step, {"tokens": tokens, **parts}, outputs, rows=1 + len(rows.recurrent)
        ),
    }


# --- the graphs as files ------------------------------------------------------------------------


def _write_graph(graph: _Graph, path: Path, to: ExportFormat) -> None:
    """Write a graph as ``path`` with the suffix of the format, and compare it with its module.

    Raises:
        ConfigError: The exporter does not support an operation, or the results differ.
    """
    try:
        onnx_path = path.with_suffix(".onnx")
        _write_onnx(graph, onnx_path)
        found = _RUN[to](onnx_path, [part.numpy() for part in graph.inputs.values()])
    except OSError:
        raise
    except Exception as error:  # exporters and runtimes raise many kinds
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(
            f"cannot export the {path.name} as {to}: {reason:.300}. Update torch (this is "
            f"{torch.__version__}), or use another encoder or decoder."
        ) from error
    with torch.enable_grad():
        expected = [part.detach().numpy() for part in graph.module(*graph.inputs.values())]
    for name, wanted, result in zip(graph.outputs, expected, found, strict=True):
        scale = max(1.0, float(np.abs(wanted).max()))
        difference = float(np.abs(wanted - result).max()) / scale
        if not difference < _TOLERANCE:
            raise ConfigError(
                f"cannot export the {path.name} as {to}: {name} differs from that of the model by "
                f"{difference:.2g} of its largest value. Use another format."
            )


def _write_onnx(graph: _Graph, path: Path) -> None:
    rows = torch.export.Dim("rows")
    shapes = [{0: rows} if index < graph.rows else None for index in range(len(graph.inputs))]
    if isinstance(graph.module, _StepGraph):
        shapes = [shapes[0], tuple(shapes[1:])]  # type: ignore[list-item]  # *tensors is a tuple
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        torch.inference_mode(False),
        torch.no_grad(),
    ):
        warnings.simplefilter("ignore")  # about the exporter's own code
        logging.getLogger("onnx_ir").setLevel(logging.ERROR)
        torch.onnx.export(
            graph.module.eval(),
            tuple(graph.inputs.values()),
            path,
            input_names=list(graph.inputs),
            output_names=graph.outputs,
            opset_version=_OPSET,
            dynamo=True,
            external_data=False,
            dynamic_shapes=tuple(shapes),
            verbose=False,
        )


def _run_onnx(path: Path, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))


def _run_openvino(path: Path, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Replace an ONNX file by a graph of OpenVINO, and run it."""
    import openvino as ov

    from captioning.graphs.core import CORE

    graph = CORE.read_model(path)
    ov.save_model(graph, path.with_suffix(".xml"), compress_to_fp16=False)
    path.unlink()
    compiled = CORE.compile_model(
        path.with_suffix(".xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return list(compiled(list(inputs)).values())


_RUN: dict[ExportFormat, Callable[[Path, Sequence[np.ndarray]], list[np.ndarray]]] = {
    "onnx": _run_onnx,
    "openvino": _run_openvino,
}
