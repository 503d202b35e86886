"""Graphs of encoders with convolutions in 8-bit integers (int8).

The input of a convolution has one scale, its weights have one for each output channel. A scale for
each channel of the input costs the weights more bits than it saves: measured on EfficientNet-Lite2,
the error of the grid is 0.17 instead of 0.14. The rest of the graph keeps floating point.
"""

import numpy as np
import openvino as ov
from openvino import opset8 as ops

from captioning.nn.activation_ranges import ActivationRanges

_TINY = 1e-8
_CONVOLUTIONS = ("Convolution", "GroupConvolution")


def quantize_graph(graph: ov.Model, ranges: ActivationRanges) -> None:
    """Insert the rounding to int8 in front of the convolutions of a graph.

    OpenVINO runs a convolution in int8 if FakeQuantize operations precede it. A convolution
    without a range, or with computed weights, stays in floating point.

    Args:
        graph: The graph that :func:`captioning.graphs.openvino_encoder.convert_encoder`
            returns; it is changed.
        ranges: Ranges of the activations.
    """
    for node in graph.get_ordered_ops():
        name = node.get_friendly_name().partition("/")[0].removeprefix("__module.encoder.")
        weights = node.input_value(1).get_node() if node.get_input_size() > 1 else None
        if (
            node.get_type_name() in _CONVOLUTIONS
            and name in ranges
            and weights is not None
            and weights.get_type_name() == "Constant"
        ):
            _quantize(node, weights.data, *ranges[name].tolist())
    graph.validate_nodes_and_infer_types()


def _quantize(node: ov.Node, weights: np.ndarray, low: float, high: float) -> None:
    target = node.input(0)
    before = target.get_source_output()
    if before.get_node().get_type_name() == "Pad":  # OpenVINO merges it into the convolution
        target = before.get_node().input(0)
        before = target.get_source_output()
    interval = _constants(*_align_zero(low, high))
    rounded = ops.fake_quantize(before, *interval, *interval, 256)
    target.replace_source_output(rounded.output(0))

    outputs = 2 if node.get_type_name() == "GroupConvolution" else 1  # dimensions of them
    inner = tuple(range(outputs, weights.ndim))
    limit = np.maximum(np.abs(weights).max(inner, keepdims=True), _TINY)
    interval = _constants(-limit, limit)
    rounded = ops.fake_quantize(node.input_value(1), *interval, *interval, 255)
    node.input(1).replace_source_output(rounded.output(0))


def _align_zero(low: float, high: float) -> tuple[float, float]:
    """Widen a range to one that contains 0 exactly, as one of its 256 levels."""
    low, high = min(low, 0.0), max(high, _TINY)
    below = round(-low / (high - low) * 255)
    if low < 0:
        below = min(max(below, 1), 254)
    step = max(-low / below if below else 0.0, high / (255 - below))
    return -step * below, step * (255 - below)


def _constants(*values: np.ndarray | float) -> list[ov.Node]:
    return [ops.constant(np.asarray(value, np.float32)) for value in values]
