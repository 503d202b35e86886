"""Encoder in OpenVINO, which runs a CNN on a CPU several times as fast as torch."""

import hashlib
import threading
import warnings
from importlib.metadata import version
from typing import Any

import numpy as np
import openvino as ov
import torch
from jaxtyping import Float, UInt8
from openvino.frontend import FrontEndManager
from openvino.passes import ConstantFolding, Manager
from torch import Tensor, nn

from captioning import __version__
from captioning.graphs.core import CORE
from captioning.graphs.graph_cache import cached_graph
from captioning.graphs.int8_graph import quantize_graph
from captioning.nn.activation_ranges import ActivationRanges
from captioning.nn.encoder import Encoder
from captioning.nn.features import Features
from captioning.nn.pretrained import weights_hash

_HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}  # int8: of the other operations
_PACKAGES = ("openvino", "torch", "torchvision", "timm")
_FORMAT = 2  # of graphs; increase it when the conversion or the code of an encoder changes
_MAX_STREAMS = 16  # each has its own memory for feature maps


class OpenVINOEncoder:
    """Encodes batches of pixels like :class:`captioning.nn.encoder.Encoder`.

    Every thread encodes one image at a time. On two cores that is as fast as a batch, and the
    features of an image do not depend on the other images of its batch.

    Args:
        encoder: Encoder on the CPU.
        precision: ``float32``, ``bfloat16`` or ``int8``.
        ranges: Ranges of the activations, for int8.

    Raises:
        Exception: OpenVINO does not support the network; it raises many kinds of errors.
    """

    def __init__(
        self, encoder: Encoder, precision: str, ranges: ActivationRanges | None = None
    ) -> None:
        threads = torch.get_num_threads()
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": min(threads, _MAX_STREAMS),
            # Otherwise several processes of one thread would all compute on the first core.
            "ENABLE_CPU_PINNING": False,
        }
        graph = cached_graph(_cache_key(encoder), lambda: convert_encoder(encoder))
        if ranges is not None:
            quantize_graph(graph, ranges)
        compiled = CORE.compile_model(graph, "CPU", settings)
        self._shape = (encoder.positions, encoder.feature_size)
        self._queue = ov.AsyncInferQueue(compiled)
        self._queue.set_callback(_keep_output)
        self._lock = threading.Lock()  # the queue serves one batch at a time

    def __call__(self, pixels: UInt8[Tensor, "B 3 S S"]) -> Features:
        """Encode a batch of images."""
        images = pixels.numpy()
        grids = np.empty((len(images), *self._shape), np.float32)
        with self._lock:
            for image, grid in zip(images, grids, strict=True):
                self._queue.start_async({0: image[None]}, grid)
            self._queue.wait_all()
        features = torch.from_numpy(grids)
        return Features(features.mean(1), features)


def _keep_output(request: Any, grid: np.ndarray) -> None:
    grid[:] = request.get_output_tensor().data[0]


def _cache_key(encoder: Encoder) -> str:
    """Return a hash of everything that the graph of an encoder depends on."""
    facts = [_FORMAT, weights_hash(encoder), encoder.config, encoder.preprocessing, __version__]
    facts += [(name, version(name)) for name in _PACKAGES]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


class _GridOnly(nn.Module):
    """Encoder whose output is one tensor, as tracing needs."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: UInt8[Tensor, "B 3 S S"]) -> Float[Tensor, "B P D"]:
        grid = self.encoder(pixels).grid
        assert grid is not None
        return grid


def convert_encoder(encoder: Encoder) -> ov.Model:
    """Return an encoder as a graph of OpenVINO, from the pixels of one image to its grid."""
    # Imported here: the module changes functions of torch.
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    size = encoder.preprocessing.size
    pixels = torch.zeros(1, 3, size, size, dtype=torch.uint8)
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: the shapes are constant here
        traced = torch.jit.trace(_GridOnly(encoder), pixels, check_trace=False)
        decoder = TorchScriptPythonDecoder(traced)  # named: the frontend keeps no reference
        frontend = FrontEndManager().load_by_framework("pytorch")
        # Not openvino.convert_model, which reports every use to its vendor.
        graph = frontend.convert(frontend.load(decoder))
    graph.reshape(list(pixels.shape))
    passes = Manager()
    passes.register_pass(ConstantFolding())
    passes.run_passes(graph)
    return graph
