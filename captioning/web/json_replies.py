"""JSON of the HTTP interface."""

import base64
import json
import math
from typing import Any

from starlette.responses import Response

from captioning.inference.results import Caption, CaptionResult
from captioning.web.advice import advise_on_page
from captioning.web.service import TracedCaption


class JsonReply(Response):
    """A JSON response; its errors give advice for a page.

    It is ASCII: names of files may hold characters that UTF-8 cannot encode.
    """

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the content as JSON."""
        return json.dumps(advise_on_page(content), allow_nan=False).encode("ascii")


def result_to_json(result: CaptionResult) -> dict[str, Any]:
    """Return the captions of an image, or its error, as JSON data."""
    return {
        "image": result.source,
        "captions": [_caption_to_json(caption) for caption in result.captions],
        "error": result.error or None,
    }


def _caption_to_json(caption: Caption) -> dict[str, Any]:
    return {
        "text": caption.text,
        "probability": math.exp(caption.log_prob),
        "log_prob": _finite(caption.log_prob),
        "finished": caption.finished,
        "words": list(caption.words),
        "word_log_probs": [_finite(value) for value in caption.word_log_probs],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def explanation_to_json(explanation: TracedCaption) -> dict[str, Any]:
    """Return an explanation as JSON data; the thumbnail is a ``data:`` URL."""
    thumbnail = base64.b64encode(explanation.thumbnail).decode("ascii")
    return {
        "words": list(explanation.words),
        "steps": [
            {
                "word": step.word,
                "probability": step.probability,
                "likely": [{"word": word, "probability": p} for word, p in step.likely],
                "attention": None if step.attention is None else step.attention.tolist(),
            }
            for step in explanation.steps
        ],
        "concepts": [
            {"word": word, "strength": strength} for word, strength in explanation.concepts
        ],
        "thumbnail": f"data:image/jpeg;base64,{thumbnail}",
    }
