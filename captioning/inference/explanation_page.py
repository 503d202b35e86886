"""Explanation of a caption as one HTML page without remote resources."""

import base64
import io
import math
from collections.abc import Callable, Iterable
from html import escape as escape_html
from pathlib import Path
from string import Template

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from captioning.inference.beam_tree import TreeNode, layout_beam
from captioning.inference.explanation import Explanation
from captioning.inference.word_steps import WordStep
from captioning.messages import escape_unprintable

MIN_BRIGHTNESS = 0.15
_MAP_SIDE = 96  # pixels
_CHARACTER, _PADDING, _ROW = 7.6, 26, 30  # of the tree, in pixels
_TEXTS = {
    "attention": (
        "Attention",
        "While the decoder chooses a word, it looks at some parts of the image more than at "
        "others. The brighter a part, the larger its attention weight. Point at a word, or use the "
        "arrow keys.",
    ),
    "occlusion": (
        "Occlusion",
        "This model has no attention. Instead, parts of the image were covered, one after the "
        "other. A part is bright if the word becomes less probable when the part is covered. Point "
        "at a word, or use the arrow keys.",
    ),
}
_BEAM_TEXT = (
    "Every branch is the beginning of a caption. The search dropped the gray branches later; the "
    "others end in a caption with its rank and score. Point at a word for its log-probability."
)
_CONCEPTS_TEXT = "Words that the CNN recognizes in the image, and their strengths in the decoder."


def format_page(explanation: Explanation) -> str:
    """Return the page. All of its texts are escaped."""
    template = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
    height, width = explanation.image.shape[:2]
    title, text = _TEXTS[explanation.map_kind]
    images = {
        "photo": _encode_image(explanation.image, "JPEG"),
        **{f"map{i}": _encode_map(each) for i, each in enumerate(explanation.maps)},
    }
    return template.substitute(
        caption=_escape(explanation.caption.text),
        source=_escape(f"{Path(explanation.source).name}: {_describe(explanation)}"),
        images=" ".join(f"--{name}: url({address});" for name, address in images.items()),
        ratio=f"{width} / {height}",
        map_title=title,
        map_text=text,
        words="\n".join(_word_buttons(explanation)),
        next_words="\n".join(_next_word_lists(explanation)),
        concepts=_concepts_section(explanation),
        beam_text=_BEAM_TEXT,
        tree=_draw_tree(layout_beam(explanation)),
    )


def scale_brightness(values: Float[np.ndarray, "S S"]) -> Float[np.ndarray, "S S"]:
    """Return a map as brightness from 0 to 1; values below 0 become 0.

    The root makes the smaller values visible, and keeps their order.
    """
    return np.sqrt(np.clip(values, 0, None) / max(float(values.max()), 1e-12))


def _describe(explanation: Explanation) -> str:
    caption = explanation.caption
    share = format_percent(math.exp(caption.log_prob))
    return f"probability {share}, log-probability {caption.log_prob:.2f}"


# --- images -------------------------------------------------------------------------------------


def _encode_map(values: Float[np.ndarray, "S S"]) -> str:
    """Return a map as black with the opacity of what it darkens."""
    small = Image.fromarray(scale_brightness(values).astype(np.float32))
    large = np.asarray(small.resize((_MAP_SIDE, _MAP_SIDE), Image.Resampling.BICUBIC))
    opacity = (1 - MIN_BRIGHTNESS) * (1 - large.clip(0, 1))
    black = np.zeros_like(large)
    return _encode_image((np.stack([black, opacity], 2) * 255).astype(np.uint8), "PNG")


def _encode_image(values: UInt8[np.ndarray, "height width channels"], form: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, form, quality=85)
    content = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{form.lower()};base64,{content}"


def format_percent(share: float) -> str:
    """Return a share in percent, with two digits if it is below 10 %."""
    value = 100 * share
    if value >= 9.95:
        return f"{value:.0f} %"
    if value >= 0.995:
        return f"{value:.1f} %"
    if value < 0.0001:
        return "< 0.0001 %"
    return f"{float(f'{value:.2g}'):.7f}".rstrip("0") + " %"


def format_strength(strength: float) -> str:
    """Return the strength of a concept; it is a difference of probabilities."""
    return f"{strength:.2f}"


# --- words --------------------------------------------------------------------------------------


def _word_buttons(explanation: Explanation) -> Iterable[str]:
    """Yield a button for the image, for each word, and for the end of the caption."""
    yield _button("", "image", "", "")
    *steps, end = explanation.steps
    for number, (step, values) in enumerate(zip(steps, explanation.maps, strict=True)):
        share = format_percent(step.probability)
        reading = _READINGS[explanation.map_kind](step, float(values.max()))
        yield _button(f"--own: var(--map{number})", step.word, share, reading)
    name = "end" if explanation.caption.finished else "cut off"
    yield _button("", name, format_percent(end.probability), "")


def _button(style: str, word: str, share: str, reading: str) -> str:
    return (
        f'<button class="word" aria-pressed="false" style="{style}" '
        f'data-reading="{_escape(reading)}"><i></i><b>{_escape(word)}</b>'
        f'<span class="muted">{share or "&nbsp;"}</span></button>'
    )


def _read_attention(step: WordStep, largest: float) -> str:
    return f"“{step.word}”: the brightest part has {format_percent(largest)} of the attention."


def _read_occlusion(step: WordStep, largest: float) -> str:
    if largest <= 0:
        return f"“{step.word}”: covering a part never lowers its probability."
    before, after = (format_percent(step.probability * math.exp(-x)) for x in (0, largest))
    return (
        f"“{step.word}”: its probability falls from {before} to {after} when the brightest part is "
        "covered."
    )


_READINGS = {"attention": _read_attention, "occlusion": _read_occlusion}


def _next_word_lists(explanation: Explanation) -> Iterable[str]:
    """Yield the most probable next words at each position, as bars."""
    words = explanation.caption.words
    for number, step in enumerate(explanation.steps):
        before = " ".join(words[max(0, number - 4) : number])
        title = (
            f"Next word after “{'… ' if number > 4 else ''}{before}”" if before else "First word"
        )
        hidden = " hidden" if number else ""
        bars = _bars(step.likely, step.word)
        yield f'<section class="next"{hidden}><h3>{_escape(title)}</h3>{bars}</section>'


def format_word(word: str) -> str:
    """Return a word as people read it."""
    return word or "(end)"


def _concepts_section(explanation: Explanation) -> str:
    if not explanation.concepts:
        return ""
    bars = _bars(explanation.concepts, None, format_strength)
    return f"<section><h2>Concepts</h2><p>{_CONCEPTS_TEXT}</p>{bars}</section>"


def _bars(
    values: Iterable[tuple[str, float]],
    chosen: str | None,
    format_value: Callable[[float], str] = format_percent,
) -> str:
    """Return words with bars from 0 to 1."""
    rows = "".join(
        f"<li{' class=chosen' if name == chosen else ''}><span>{_escape(format_word(name))}</span>"
        f'<span class="track"><i style="width: {min(value, 1):.1%}"></i></span>'
        f"<span>{format_value(value)}</span></li>"
        for name, value in values
    )
    return f'<ol class="bars">{rows}</ol>'


# --- the tree -----------------------------------------------------------------------------------


def _draw_tree(nodes: list[TreeNode]) -> str:
    """Return the tree as SVG: each word stands on a line that leads to the next ones."""
    lengths: dict[int, int] = {}
    for node in nodes:
        lengths[node.column] = max(lengths.get(node.column, 0), len(node.label))
    edges = [0.0]
    for column in sorted(lengths):
        edges.append(edges[-1] + _CHARACTER * lengths[column] + _PADDING)
    width, height = edges[-1] + 2, (1 + max(node.row for node in nodes)) * _ROW + 6
    parts = "".join(_draw_node(node, edges[node.column], edges[node.column + 1]) for node in nodes)
    return f'<svg width="{width:.0f}" height="{height}" role="img" aria-label="Tree">{parts}</svg>'


def _draw_node(node: TreeNode, left: float, right: float) -> str:
    kind = "dropped" if node.rank is None else "best" if node.rank == 0 else "found"
    y = (node.row + 1) * _ROW - 6
    start, bend = left, left + _PADDING - 8
    path = f"M{bend:.0f} {y}H{right:.0f}"
    if node.parent_row is not None:
        above = (node.parent_row + 1) * _ROW - 6
        middle = (start + bend) / 2
        path = (
            f"M{start:.0f} {above}C{middle:.0f} {above} {middle:.0f} {y} {bend:.0f} {y}H{right:.0f}"
        )
    if node.log_prob is None:  # the line of an end stops before its text
        path = path.rpartition("H")[0]
    value = "" if node.log_prob is None else f"<title>{node.log_prob:.2f}</title>"
    text = f'<text x="{bend + 4:.0f}" y="{y - 5}">{_escape(node.label)}{value}</text>'
    return f'<g class="{kind}"><path d="{path}"/>{text}</g>'


def _escape(text: str) -> str:
    return escape_html(escape_unprintable(text))
