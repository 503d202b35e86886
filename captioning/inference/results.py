"""What captioning gives back."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Caption:
    """One sentence about one image.

    Attributes:
        text: The sentence, lower case, without a full stop.
        words: Its words.
        log_prob: The model's natural log-probability of the whole sentence.
        finished: Whether the model ended it itself; otherwise it was cut at the longest length.
        word_log_probs: The log-probability of each word given those before it.
    """

    text: str
    words: tuple[str, ...]
    log_prob: float
    finished: bool
    word_log_probs: tuple[float, ...]


@dataclass(frozen=True)
class CaptionResult:
    """What became of one image: its captions, or why it has none.

    Attributes:
        source: The file's path as it was given.
        captions: Best first; empty where the image could not be read.
        error: What was wrong with the image; empty where nothing was.
        thumbnail: A small JPEG of it, where one was asked for.
    """

    source: str
    captions: tuple[Caption, ...] = ()
    error: str = ""
    thumbnail: bytes = field(default=b"", repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether the image was captioned."""
        return not self.error

    @property
    def text(self) -> str:
        """The best caption, or an empty string."""
        return self.captions[0].text if self.captions else ""


def one_line(text: str) -> str:
    """Return ``text`` with what breaks a line or cannot be shown escaped."""
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]
