"""Random numbers for a batch that is divided among several processes.

Each process draws the numbers of the whole batch, and takes those of its rows. So a mask does not
depend on the number of processes, and the generators of all processes stay in the same state.
Drawing takes a fiftieth of a training step or less.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Int, Shaped
from torch import Tensor

RowKind = Literal["images", "captions", "words", "tokens", "step"]
"""What rows are: images, captions (the longest first), distinct words, words of all captions in
packed order, or the captions that have a word at the current step."""


@dataclass(frozen=True)
class Rows:
    """Rows of a process.

    Attributes:
        index: Indices of its rows.
        total: Number of rows of all processes.
    """

    index: Int[Tensor, " M"]
    total: int


@dataclass
class BatchPart:
    """The rows of a process in a batch.

    Attributes:
        images: Images of the process, among those of the batch.
        captions: Captions of the process, among those of the batch, sorted by length, the longest
            first.
        tokens: Words in the captions of the process, among those of the batch in packed order.
        words: Distinct words of the process, among those of the batch.
        sizes: Number of captions of all processes at each step.
        idle: Whether the process only repeats rows of another one, because the batch has too few
            images. Its results then get the weight 0.
        step: The current step of teacher forcing.
    """

    images: Rows
    captions: Rows
    tokens: Rows
    words: Rows
    sizes: list[int]
    idle: bool = False
    step: int = 0

    def share(self, rows: Rows) -> float:
        """Return the share of rows that the process adds to a mean over the batch."""
        return 0.0 if self.idle else len(rows.index) / rows.total

    def rows(self, kind: RowKind, count: int) -> Rows:
        """Return the rows of a kind; ``count`` is their number at the current step."""
        if kind == "step":
            return Rows(self.captions.index[:count], self.sizes[self.step])
        found: Rows = getattr(self, kind)
        return found


_parts: list[BatchPart] = []


@contextmanager
def shared_draws(part: BatchPart | None) -> Iterator[None]:
    """Draw the random numbers of the whole batch within the context. None: there is one process."""
    if part is None:
        yield
        return
    _parts.append(part)
    try:
        yield
    finally:
        _parts.pop()


def set_draw_step(step: int) -> None:
    """Set the step of teacher forcing to which the following draws belong."""
    if _parts:
        _parts[-1].step = step


def draw_rows(
    kind: RowKind, count: int, draw: Callable[[int], Shaped[Tensor, "N ..."]]
) -> Shaped[Tensor, "M ..."]:
    """Return random numbers for ``count`` rows.

    Args:
        kind: What the rows are.
        count: Number of rows of this process.
        draw: Function from a row count to that many rows of random numbers.
    """
    if not _parts:
        return draw(count)
    rows = _parts[-1].rows(kind, count)
    drawn = draw(rows.total)
    return drawn[rows.index.to(drawn.device)]
