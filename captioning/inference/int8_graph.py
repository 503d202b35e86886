"""Graphs of encoders with convolutions in 8-bit integers (int8).

The input of a convolution is divided by its range in each channel, so that every channel uses all
8 bits, and the weights are multiplied by that range. Weights have a scale for each output channel.
The rest of the graph keeps floating point.
"""

import numpy as np
import openvino as ov
from openvino import opset8 as ops

from captioning.nn.activation_ranges import ActivationRanges

_MIN_SHARE = 1e-3  # of the largest channel: a smaller range would amplify the weights' rounding
_TINY = 1e-8
_CONVOLUTIONS = ("Convolution", "GroupConvolution")


def quantize_graph(graph: ov.Model, ranges: ActivationRanges) -> None:
    """Insert the rounding to int8 in front of the convolutions of a graph.

    OpenVINO runs a convolution in int8 if FakeQuantize operations precede it. A convolution
    without a range, or with computed weights, stays in floating point.

    Args:
        graph: The graph that :func:`captioning.inference.openvino_encoder.convert_encoder`
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
            _quantize(node, weights.data, ranges[name].numpy())
    graph.validate_nodes_and_infer_types()


def _quantize(node: ov.Node, weights: np.ndarray, ranges: np.ndarray) -> None:
    signed = ranges[0].min() < 0
    scale = np.abs(ranges).max(0)
    scale = np.maximum(scale, max(scale.max() * _MIN_SHARE, _TINY))
    target = node.input(0)
    before = target.get_source_output()
    if before.get_node().get_type_name() == "Pad":  # OpenVINO merges it into the convolution
        target = before.get_node().input(0)
        before = target.get_source_output()
    low = -128 / 127 if signed else 0.0
    channels = scale.reshape(1, -1, 1, 1)
    rounded = ops.fake_quantize(before, *_constants(low * channels, channels, low, 1.0), 256)
    target.replace_source_output(rounded.output(0))

    grouped = node.get_type_name() == "GroupConvolution"
    scaled = weights * scale.reshape((len(weights), 1, -1, 1, 1) if grouped else (1, -1, 1, 1))
    inner = tuple(range(2 if grouped else 1, weights.ndim))  # all dimensions but the outputs'
    limit = np.maximum(np.abs(scaled).max(inner, keepdims=True), _TINY)
    (values,) = _constants(scaled)
    rounded = ops.fake_quantize(values, *_constants(-limit, limit, -limit, limit), 255)
    node.input(1).replace_source_output(rounded.output(0))


def _constants(*values: np.ndarray | float) -> list[ov.Node]:
    return [ops.constant(np.asarray(value, np.float32)) for value in values]
