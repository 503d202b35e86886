"""A run's share of the images, and the shares put together again."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from captioning.bulk.writers.base import Writer
from captioning.bulk.writers.rows import read_rows
from captioning.errors import OutputError
from captioning.images.worker_pool import ImageRef
from captioning.inference.results import CaptionResult


def share_of(
    images: Iterable[ImageRef], *, shard: tuple[int, int] | None, limit: int | None
) -> Iterator[ImageRef]:
    """Yield every n-th image from the i-th on, and of these the first few.

    Args:
        images: All.
        shard: (i, n), i from 1 to n; the n shares have each image once.
        limit: At most so many; None for all.
    """
    if shard is not None:
        number, count = shard
        images = islice(images, number - 1, None, count)
    return islice(images, limit)


def merge_shares(shares: Sequence[Path], writer: Writer) -> int:
    """Write the results of all shares in the order of the images; return how many there are.

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


def _check_ends(shares: Sequence[Path], remaining: Sequence[Iterator[CaptionResult]]) -> None:
    for path, rows in zip(shares, remaining, strict=True):
        if next(rows, None) is not None:
            raise OutputError(
                f"{path} has rows left when the other shares have ended, so one of those is not "
                "complete. Run its command again."
            )
