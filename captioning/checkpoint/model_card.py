"""The README of a model directory: what the model is, what it was trained on, what it scores."""

from collections.abc import Mapping
from typing import Any

from captioning.nn.model import CaptionModel


def model_card(model: CaptionModel, words: int, info: Mapping[str, Any], *, ngrams: int = 0) -> str:
    """Return the card, in the Markdown that model hubs read.

    Args:
        model: Encoder and decoder.
        words: How many the decoder knows.
        info: How it was made and what it scored, as in ``config.json``.
        ngrams: How many it has learned to expect.
    """
    encoder, decoder = model.encoder, model.decoder.config
    layers = f"{decoder.layers} layers of " if decoder.layers > 1 else ""
    attention = " with soft attention over the grid" if decoder.attention else ""
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
        f"decoder of {layers}`{decoder.cell}` cells{attention}; the image enters by "
        f"`{decoder.injection}`. {words} words.{_ranking(ngrams)}",
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


def _ranking(ngrams: int) -> str:
    if not ngrams:
        return ""
    return (
        f" What a beam finds can be ranked by {ngrams} n-grams that a linear regression on the "
        "image's vector expects."
    )


def _plain(value: object) -> str:
    return "; then ".join(map(str, value)) if isinstance(value, list) else str(value)
