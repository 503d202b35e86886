"""Partitions of a run: every n-th image, captioned on its own and merged afterwards."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path

from captioning.bulk.readers import read_rows
from captioning.bulk.rows import RelativeNames
from captioning.bulk.writers.base import CaptionRow
from captioning.bulk.writers.failed_rows import failed_path
from captioning.errors import ConfigError, OutputError
from captioning.images.image_ref import ImageRef
from captioning.messages import format_count

_MAX_PARTITIONS = 10**6


@dataclass(frozen=True)
class Partition:
    """One of ``count`` shares of the images; the first one has ``number`` 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Partition":
        """Read a partition such as ``1/8``.

        Raises:
            ConfigError: The text is not of this form, or the number is out of range.
        """
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal()) or not (
            1 <= int(number) <= int(count) <= _MAX_PARTITIONS
        ):
            raise ConfigError(f"--partition is {text!r}. Use I/N with I from 1 to N, as in 1/8.")
        return cls(int(number), int(count))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def select(self, images: Iterable[ImageRef]) -> Iterator[ImageRef]:
        """Yield every ``count``-th image, starting with image ``number``."""
        return islice(images, self.number - 1, None, self.count)


@dataclass(frozen=True)
class PartitionFile:
    """The output of a partition."""

    path: Path
    rows: int
    """Number of its images, failed ones included."""
    run_folder: str
    """Folder in which it was written."""


def merge_partitions(files: Sequence[PartitionFile], names: RelativeNames) -> Iterator[CaptionRow]:
    """Yield the rows of all partitions in the order of a run without partitions.

    Args:
        files: JSON lines of partition 1, 2 and so on.
        names: Makes file names relative to the merged output.

    Raises:
        OutputError: A partition is incomplete or cannot be read.
    """
    readers = [_read_partition(file, names) for file in files]
    paths = [file.path for file in files]
    ended = False
    for rows in zip_longest(*readers):
        for path, row in zip(paths, rows, strict=True):
            if row is None:
                ended = True
            elif ended:
                raise OutputError(
                    f"'{path}' has more rows than the other partitions, so one of these is "
                    "incomplete. Run its command again."
                )
            else:
                yield row


def _read_partition(file: PartitionFile, names: RelativeNames) -> Iterator[CaptionRow]:
    count = 0
    for row in read_rows(file.path, "jsonl", names, run_folder=file.run_folder):
        yield row
        count += 1
    if count != file.rows:
        raise OutputError(
            f"'{file.path}' has {format_count(count, 'row')}, but its run had "
            f"{format_count(file.rows, 'image')}. Copy {failed_path(file.path).name} too if it "
            "exists, or run the command of the partition again."
        )
