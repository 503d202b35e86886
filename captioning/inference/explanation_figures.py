"""Parts of an explanation as figures of matplotlib, for notebooks."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from captioning.errors import ConfigError
from captioning.inference.beam_tree import layout_beam
from captioning.inference.explanation import Explanation
from captioning.inference.explanation_page import (
    MIN_BRIGHTNESS,
    format_percent,
    format_strength,
    format_word,
    scale_brightness,
)

if TYPE_CHECKING:  # matplotlib is optional
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 6
_ACCENT, _BAR, _MUTED = "#0b62c4", "#c3d9f3", "#9aa0a8"
_INCHES = 0.085  # width of a character


def draw_word_maps(explanation: Explanation) -> "Figure":
    """Return the image, and for each word the image with the map as brightness."""
    words, maps = explanation.caption.words, explanation.maps
    rows = math.ceil((1 + len(words)) / _COLUMNS)
    height, width = explanation.image.shape[:2]
    figure = _new_figure(1.7 * _COLUMNS, (1.7 * height / width + 0.3) * rows)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    pixels = explanation.image / 255
    axes[0].imshow(pixels)
    for axis, word, values in zip(axes[1:], words, maps, strict=False):
        small = Image.fromarray(scale_brightness(values).astype(np.float32))
        large = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).clip(0, 1)
        axis.imshow(pixels * (MIN_BRIGHTNESS + (1 - MIN_BRIGHTNESS) * large)[..., None])
        axis.set_title(_plain(word), fontsize=11)
    return figure


def draw_next_words(explanation: Explanation) -> "Figure":
    """Return the most probable words at each position as bars; the chosen one is dark."""
    rows = math.ceil(len(explanation.steps) / _COLUMNS)
    figure = _new_figure(2.2 * _COLUMNS, 2.1 * rows)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, step in zip(axes, explanation.steps, strict=False):
        _draw_bars(axis, step.likely, step.word)
        axis.set_title(_plain(format_word(step.word)), fontsize=11)
    return figure


def draw_concepts(explanation: Explanation) -> "Figure":
    """Return the concepts of the image with their strengths as bars.

    Raises:
        ConfigError: The model has no concepts.
    """
    if not explanation.concepts:
        raise ConfigError(
            "there are no concepts: the model has none, or the CNN recognizes none in the image. "
            "Train a model with --decoder.concepts."
        )
    figure = _new_figure(4.5, 0.5 + 0.3 * len(explanation.concepts))
    axis = figure.subplots()
    axis.axis("off")
    _draw_bars(axis, explanation.concepts, None, format_strength)
    return figure


def draw_beam(explanation: Explanation) -> "Figure":
    """Return the tree of the search: dropped branches are gray, the best caption is blue."""
    nodes = layout_beam(explanation)
    lengths: dict[int, int] = {}
    for node in nodes:
        lengths[node.column] = max(lengths.get(node.column, 0), len(node.label))
    edges = np.cumsum([0, *(3 + lengths[column] for column in sorted(lengths))])
    rows = 1 + max(node.row for node in nodes)
    figure = _new_figure(_INCHES * edges[-1], 0.3 * rows)
    axis = figure.subplots()
    axis.set(xlim=(0, edges[-1]), ylim=(rows - 0.5, -0.7))
    axis.axis("off")
    for node in nodes:
        left, right = edges[node.column], edges[node.column + 1]
        color = _MUTED if node.rank is None else _ACCENT if node.rank == 0 else "black"
        above = node.row if node.parent_row is None else node.parent_row
        ends = [left, left + 2] if node.log_prob is None else [left, left + 2, right]
        axis.plot(ends, [above, *[node.row] * (len(ends) - 1)], color=color, linewidth=1)
        axis.text(left + 2.2, node.row - 0.1, _plain(node.label), color=color, fontsize=9)
    return figure


def _draw_bars(
    axis: "Axes",
    values: Sequence[tuple[str, float]],
    chosen: str | None,
    format_value: Callable[[float], str] = format_percent,
) -> None:
    """Draw names with bars from 0 to 1, the first on top."""
    for row, (word, value) in enumerate(values):
        axis.barh(row, min(value, 1), color=_ACCENT if word == chosen else _BAR)
        axis.text(-0.04, row, _plain(format_word(word)), ha="right", va="center", fontsize=9)
        axis.text(min(value, 1) + 0.03, row, format_value(value), va="center", fontsize=8)
    axis.set(xlim=(-0.6, 1.2), ylim=(len(values) - 0.4, -0.6))


def _plain(text: str) -> str:
    """Return a text that matplotlib does not read as a formula."""
    return text.replace("$", r"\$")


def _new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure, in inches.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot  # noqa: F401  (shows figures in notebooks)
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(
            "figures need matplotlib, which is not installed. Run: pip install matplotlib"
        ) from None
    return Figure(figsize=(width, height), layout="constrained")
