"""Messages and progress bars on standard error."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from captioning.processes import is_main_process

if TYPE_CHECKING:  # slow to import, and --help does not need it
    from rich.console import Console
    from rich.progress import Progress, Task
    from rich.text import Text

_LINE_INTERVAL = 30.0  # seconds between two lines of progress


def stderr_console() -> "Console":
    """Return a console that prints plain lines to standard error, in the main process of a job.

    File names are printed as they are: long lines are not broken, and nothing in them is
    interpreted as markup, a number to highlight or an emoji.
    """
    from rich.console import Console

    return Console(
        stderr=True,
        quiet=not is_main_process(),
        soft_wrap=True,
        highlight=False,
        markup=False,
        emoji=False,
    )


def progress_bar(console: "Console", *, unit: str, enabled: bool = True) -> "Progress":
    """Return a progress bar with rate and remaining time.

    Args:
        console: Console of standard error; the bar is shown only if it is a terminal.
        unit: Unit of the rate, for example ``images/s``.
        enabled: False to show no bar.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class RateColumn(ProgressColumn):
        def render(self, task: "Task") -> "Text":
            rate = task.finished_speed or task.speed
            return Text(f"{rate:.1f} {unit}" if rate else "")

    return Progress(
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        "elapsed,",
        TimeRemainingColumn(),
        "left",
        console=console,
        disable=not (console.is_terminal and enabled),
        transient=True,
        refresh_per_second=2,  # drawing takes time from the network
        redirect_stdout=False,  # otherwise results for a redirected stdout are printed as messages
    )


@contextmanager
def show_progress(
    console: "Console", line: str, *, unit: str, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows how many items of how many are done.

    On a terminal it is a bar. Otherwise a line is printed now and then.

    Args:
        console: Console of standard error.
        line: The line, with two places for the numbers.
        unit: Unit of the rate.
        clock: Returns the time in seconds.
    """
    first: int | None = None  # an earlier call may have done some
    printed = started = 0.0
    with progress_bar(console, unit=unit) as bar:
        task = bar.add_task("", total=None)

        def show(done: int, total: int) -> None:
            nonlocal first, printed, started
            now = clock()
            if first is None:
                first, printed, started = done, now, now
                bar.reset(task, completed=done, total=total)
            bar.update(task, completed=done, total=total)
            if not console.is_terminal and done > first and now - printed >= _LINE_INTERVAL:
                printed = now
                rate = (done - first) / (now - started)
                left = timedelta(seconds=round((total - done) / rate))
                numbers = line.format(f"{done:,}", f"{total:,}")
                console.print(f"{numbers}, {rate:.0f} {unit}, {left} left.")

        yield show


def count_in_background(
    iterate: Callable[[], Iterable[object]], on_count: Callable[[int], None]
) -> None:
    """Count items in a thread, so that the work does not wait for the total.

    Args:
        iterate: Returns the items; called in the thread.
        on_count: Receives the number of items; called in the thread.
    """

    def count() -> None:
        with suppress(Exception):  # without a total the bar still shows progress
            on_count(sum(1 for _ in iterate()))

    threading.Thread(target=count, daemon=True, name="count").start()
