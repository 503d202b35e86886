"""How all commands talk: on standard error, with progress bars that give rate and time left."""

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


def talk() -> Console:
    """Return standard error as a place for plain lines of any length.

    Names of files pass through as they are: not broken at column 80, and nothing in them is taken
    for markup, a number to colour or the name of an emoji.
    """
    return Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """Return the recent speed of a task."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} {self.unit}" if speed else "")


def progress_bar(console: Console, *, unit: str, wanted: bool = True) -> Progress:
    """Return a progress bar; it stays away where standard error is no terminal.

    Args:
        console: Where it is drawn.
        unit: Of its rate.
        wanted: False where rows on the same terminal show already how far the work is.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(unit),
        TextColumn("elapsed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not (console.is_terminal and wanted),
        transient=True,
        redirect_stdout=False,  # it would take results that go to a file for lines above the bar
    )


def count_in_background(
    things: Callable[[], Iterable[object]], tell: Callable[[int], None]
) -> None:
    """Count things in a thread, so that the work need not wait for their number.

    Args:
        things: Gives them; called in the thread.
        tell: Called there with how many there are, once that is known.
    """

    def count() -> None:
        with suppress(Exception):  # a bar without an end is no reason to fail
            tell(sum(1 for _ in things()))

    threading.Thread(target=count, daemon=True, name="count").start()
