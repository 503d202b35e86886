"""A run's share of the pictures, and the shares put together again."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from captioning.captioner.output import Writer
from captioning.captioner.results import CaptionedPicture
from captioning.captioner.rows import read_rows
from captioning.data.pool import Picture
from captioning.errors import OutputError


def share_of(
    pictures: Iterable[Picture], *, shard: tuple[int, int] | None, limit: int | None
) -> Iterator[Picture]:
    """Yield every n-th picture from the i-th on, and of these the first few.

    Args:
        pictures: All.
        shard: (i, n), i from 1 to n; the n shares have each picture once.
        limit: At most so many; None for all.
    """
    if shard is not None:
        number, count = shard
        pictures = islice(pictures, number - 1, None, count)
    return islice(pictures, limit)


def merge_shares(shares: Sequence[Path], writer: Writer) -> int:
    """Write the results of all shares in the order of the pictures; return how many there are.

    Args:
        shares: JSON lines of share 1, 2 and so on.
        writer: Where they go.

    Raises:
        OutputError: A share ends too soon, or cannot be read.
    """
    remaining = [read_rows(path) for path in shares]
    count, ended = 0, False
    while not ended:
        for path, rows in zip(shares, remaining, strict=True):
            result = next(rows, None)
            if result is None:
                ended = True
            elif ended:
                raise OutputError(
                    f"{path} has more rows than the shares before it leave room for, so one of "
                    "those is not complete. Run its command again."
                )
            else:
                writer.write(result)
                count += 1
    _check_ends(shares, remaining)
    return count


def _check_ends(shares: Sequence[Path], remaining: Sequence[Iterator[CaptionedPicture]]) -> None:
    for path, rows in zip(shares, remaining, strict=True):
        if next(rows, None) is not None:
            raise OutputError(
                f"{path} has rows left when the other shares have ended, so one of those is not "
                "complete. Run its command again."
            )
