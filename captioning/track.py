"""Progress of a loop."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

OnProgress = Callable[[int, int], None]
"""Called with the number of finished items and the number of all."""
T = TypeVar("T")
_INTERVAL = 1000  # items between two calls


def track(items: Sequence[T], on_progress: OnProgress) -> Iterator[T]:
    """Yield items, and report every thousand of them."""
    for done, item in enumerate(items):
        if done % _INTERVAL == 0:
            on_progress(done, len(items))
        yield item
    on_progress(len(items), len(items))
