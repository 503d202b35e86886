"""Results of captioning."""

import math
from dataclasses import dataclass, field
from html import escape

from captioning.short_repr import ShortRepr, ShortTuple

_CAPTIONS_SHOWN, _TEXT_SHOWN = 5, 300  # captions, and characters of a text, in a display


@dataclass(frozen=True, repr=False)
class Caption(ShortRepr):
    """One caption of one image.

    Attributes:
        text: The caption in lower case, without a full stop.
        words: Its words.
        log_prob: Natural log-probability of the whole caption, ``<eos>`` included.
        finished: Whether the model ended the caption itself; False if it was cut at the maximum
            length.
        word_log_probs: Log-probability of each word, given the words before it.
    """

    text: str
    words: tuple[str, ...]
    log_prob: float
    finished: bool
    word_log_probs: tuple[float, ...]


@dataclass(frozen=True, repr=False)
class CaptionResult:
    """The captions of one image, or the reason why it has none.

    Attributes:
        source: Path or name of the image, as it was given.
        captions: Captions, best first; empty if the image cannot be read.
        error: Why the image cannot be read; empty if it was captioned.
        thumbnail: Small JPEG of the image; empty if none was requested.
    """

    source: str
    captions: tuple[Caption, ...] = ()
    error: str = ""
    thumbnail: bytes = field(default=b"", compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "captions", ShortTuple(self.captions))

    @property
    def ok(self) -> bool:
        """Whether the image was captioned."""
        return not self.error

    @property
    def text(self) -> str:
        """The best caption, or an empty string."""
        return self.captions[0].text if self.captions else ""

    @property
    def log_prob(self) -> float:
        """Log-probability of the best caption, or minus infinity."""
        return self.captions[0].log_prob if self.captions else -math.inf

    def __repr__(self) -> str:
        if self.error:
            return f"CaptionResult({self.source!r:.100}, error={self.error!r:.200})"
        text = f"{self.text!r:.{_TEXT_SHOWN}}"
        more = f", {len(self.captions)} captions" if len(self.captions) > 1 else ""
        return f"CaptionResult({self.source!r:.100}, {text}, log_prob={self.log_prob:.2f}{more})"

    def _repr_html_(self) -> str:
        """Return a small preview of the image and its captions as HTML for notebooks."""
        from captioning.inference.display import image_html, read_preview  # Pillow is slow

        if self.error:
            return f"<p>{escape(self.source[:100])}: {escape(self.error[:_TEXT_SHOWN])}</p>"
        image = image_html(self.thumbnail or read_preview(self.source))
        rows = "".join(
            f"<li>{escape(caption.text[:_TEXT_SHOWN])} ({caption.log_prob:.2f})</li>"
            for caption in self.captions[:_CAPTIONS_SHOWN]
        )
        return f"<div>{image}<ol>{rows}</ol></div>"
