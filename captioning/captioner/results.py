"""What captioning gives back."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Caption:
    """One sentence about one picture.

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
class CaptionedPicture:
    """What became of one picture: its captions, or why it has none.

    Attributes:
        source: The file's path as it was given.
        captions: Best first; empty where the picture could not be read.
        error: What was wrong with the picture; empty where nothing was.
        thumbnail: A small JPEG of it, where one was asked for.
        place: The way to it from the working directory, where ``source`` was given elsewhere.
    """

    source: str
    captions: tuple[Caption, ...] = ()
    error: str = ""
    thumbnail: bytes = field(default=b"", repr=False, compare=False)
    place: str = field(default="", repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether the picture was captioned."""
        return not self.error

    @property
    def text(self) -> str:
        """The best caption, or an empty string."""
        return self.captions[0].text if self.captions else ""


@dataclass
class Counts:
    """How far a run is.

    Attributes:
        captioned: Pictures with a caption, those of earlier runs included.
        failed: Pictures without, those of earlier runs included.
        known: How many of both are of earlier runs.
        present: Pictures left out, as they have a file of their own already.
        absent: Pictures of earlier runs into this output that were not named this time.
    """

    captioned: int = 0
    failed: int = 0
    known: int = 0
    present: int = 0
    absent: int = 0

    @property
    def done(self) -> int:
        """All that the run need not look at again."""
        return self.captioned + self.failed + self.present


def one_line(text: str) -> str:
    """Return ``text`` with what breaks a line or cannot be shown escaped."""
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]
