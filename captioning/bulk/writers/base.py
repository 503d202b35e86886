"""Interface between captioning and its outputs: rows and writers.

A writer receives finished rows in order and completes one output. It does not decide which images
are captioned, skipped or appended to; the job (:mod:`captioning.bulk.job`) does.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from captioning.errors import OutputError


@dataclass(frozen=True)
class CaptionRow:
    """One image with its captions, or with the reason why it has none."""

    image: str
    """Path or URL of the image from the working directory."""
    file_name: str
    """Path of the image relative to the output's folder; ``image`` for URLs and streams."""
    captions: tuple[str, ...] = ()
    """Captions, best first; empty if the image failed."""
    log_probs: tuple[float | None, ...] = ()
    """Natural log-probability of each caption, rounded to 3 decimals; None if unknown."""
    error: str = ""
    """Reason why the image has no caption; empty if it has one."""
    thumbnail: str = ""
    """URL of a small version of the image, relative to the output or ``data:``; often empty."""
    index: int | None = None
    """Number of rows before this one, for failed images in a file of their own; else None."""

    @property
    def ok(self) -> bool:
        """Whether the image has a caption."""
        return not self.error


class Writer(ABC):
    """Writes rows, in the order in which they come, into one output.

    As a context manager, a writer completes its output when the block ends. After Ctrl-C it does
    so too, but keeps an older output that is longer. After any other error it is abandoned.
    """

    @abstractmethod
    def write(self, row: CaptionRow) -> None:
        """Write one row.

        Raises:
            OutputError: The output cannot be written, for example because the disk is full.
        """

    @abstractmethod
    def flush(self) -> None:
        """Pass all rows written so far to the operating system, if the format allows it.

        Raises:
            OutputError: The output cannot be written.
        """

    @abstractmethod
    def close(self, *, keep_existing_if_longer: bool = False) -> None:
        """Complete the output; further calls do nothing.

        Args:
            keep_existing_if_longer: Keep an existing output if it is longer than the new one. Set
                when the run was stopped before its last image.

        Raises:
            OutputError: The output cannot be written.
        """

    @abstractmethod
    def abandon(self) -> None:
        """Close an output that cannot be completed. A partial document keeps its ``.part`` name."""

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, KeyboardInterrupt):
            self.close(keep_existing_if_longer=error is not None)
        else:
            self.abandon()


class ImageWriter(Writer):
    """Writes each row into an output of its own: a caption file, or metadata of the image.

    Rows are written when :meth:`write` returns, so there is nothing to flush or to complete. An
    OutputError of :meth:`write` concerns only its own image.
    """

    def has_caption(self, image: str) -> bool:
        """Return whether the output of an image already holds a caption.

        Called for the images in input order, and at most once per image before :meth:`write`.
        """
        try:
            return bool(self.read_captions(image))
        except OutputError:
            return False

    def find_obstacle(self, image: str) -> str:
        """Return why the output of an image cannot be written; empty if nothing is known.

        Called for the images that need a caption, so that none is generated in vain.
        """
        del image
        return ""

    @abstractmethod
    def read_captions(self, image: str) -> list[str]:
        """Return the captions that the output of an image holds; empty if there is no output.

        Raises:
            OutputError: The output exists but cannot be read as one of this format.
        """

    def flush(self) -> None:
        """Do nothing: every row is already written."""

    def close(self, *, keep_existing_if_longer: bool = False) -> None:
        """Do nothing: every row is already written."""

    def abandon(self) -> None:
        """Do the same as :meth:`close`."""
        self.close()
