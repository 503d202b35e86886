"""Messages and progress bars on standard error."""

import math
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from captioning.messages import format_count
from captioning.processes import is_main_process
from captioning.training.callback import ENCODING

if TYPE_CHECKING:  # slow to import, and --help does not need it
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, Task
    from rich.text import Text

_LINE_INTERVAL = 25.0  # seconds after which a line is due; the thread may be a few seconds late


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
        "elapsed",
        time_left_column(),
        console=console,
        disable=not (console.is_terminal and enabled),
        transient=True,
        refresh_per_second=2,  # drawing takes time from the network
        redirect_stdout=False,  # otherwise results for a redirected stdout are printed as messages
    )


def time_left_column() -> "ProgressColumn":
    """Return a column with the time left; it is empty until the time can be estimated."""
    from rich.progress import TimeRemainingColumn
    from rich.text import Text

    class TimeLeftColumn(TimeRemainingColumn):
        def render(self, task: "Task") -> Text:
            known = task.time_remaining is not None
            return Text.assemble(super().render(task), " left") if known else Text()

    return TimeLeftColumn()


class PhaseProgress:
    """Progress of a command in phases: bars in a terminal, else a line at least every 30 seconds.

    A thread prints the lines, so a phase that reports nothing has lines too.

    Args:
        console: Console of standard error.
        clock: Returns the time in seconds.
        poll: Seconds between two checks of the thread whether a line is due.
    """

    def __init__(
        self,
        console: "Console",
        clock: Callable[[], float] = time.monotonic,
        *,
        poll: float = 1.0,
    ) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress

        self.console = console
        self.clock = clock
        self.poll = poll
        self.bars = Progress(
            "{task.description}",
            BarColumn(bar_width=8),  # all columns fit into 80 characters
            MofNCompleteColumn(),
            "{task.fields[rate]}",
            time_left_column(),
            console=console,
            get_time=clock,
            disable=not console.is_terminal,
            transient=True,
            redirect_stdout=False,
        )
        self.phase: Task | None = None
        self.printed = clock()
        self._lock = threading.RLock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="progress")

    def __enter__(self) -> Self:
        self.bars.start()
        if not self.console.is_terminal:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        self.bars.stop()

    @property
    def current(self) -> "Task | None":
        """What the lines report."""
        return self.phase

    def start(self, name: str, unit: str = "") -> None:
        """End the current phase, and start one whose total is not known yet.

        Args:
            name: Name of the phase, such as ``Encoding images``.
            unit: Unit of the items, such as ``MB``.
        """
        with self._lock:
            self.end()
            self.phase = self.add_task(name, None, unit=unit)

    def end(self) -> None:
        """End the current phase, if there is one."""
        if self.phase is not None:
            self.bars.remove_task(self.phase.id)
            self.phase = None

    def update(self, done: int, total: int) -> None:
        """Show how many items of how many are done in the current phase."""
        with self._lock:
            if self.phase is None:
                return
            if self.phase.total != total or done < self.phase.completed:
                # The speed is that of this session: work of an earlier one does not count.
                self._set_total(done, total)
            self.bars.update(self.phase.id, completed=done)
            self.bars.update(self.phase.id, rate=_format_rate(self.phase))

    def show(self, name: str, done: int, total: int, unit: str = "") -> None:
        """Show the items of a phase, which is started if it is not the current one."""
        if self.phase is None or self.phase.description != name:
            self.start(name, unit)
        self.update(done, total)

    def print(self, text: str) -> None:
        """Print a message."""
        with self._lock:
            self.console.print(text)
            self.printed = self.clock()

    def print_if_due(self) -> None:
        """Print a line if the last one is too old."""
        with self._lock:
            task = self.current
            if task is not None and self.clock() - self.printed >= _LINE_INTERVAL:
                self.print(_format_line(task))

    def add_task(self, name: str, total: int | None, done: int = 0, unit: str = "") -> "Task":
        """Add a bar."""
        task = self.bars.add_task(
            name, total=total, completed=done, first=done, rate="", unit=f" {unit}" if unit else ""
        )
        return self.bars.tasks[self.bars.task_ids.index(task)]

    def _set_total(self, done: int, total: int) -> None:
        assert self.phase is not None
        name, unit = self.phase.description, self.phase.fields["unit"].strip()
        if name == ENCODING and done < total and not self.console.is_terminal:
            images = format_count(total - done, "image")
            self.print(f"Encoding {images}; later runs use the cache.")
        self.end()
        self.phase = self.add_task(name, total, done, unit)

    def _watch(self) -> None:
        while not self._stopped.wait(self.poll):
            self.print_if_due()


def _speed(task: "Task") -> float:
    """Return the items per second since the start of a task, with all pauses."""
    return (task.completed - task.fields["first"]) / (task.elapsed or math.inf)


def _format_rate(task: "Task") -> str:
    speed = _speed(task)
    number = f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}"
    return f"{number}{task.fields['unit']}/s" if speed else ""


def _format_line(task: "Task") -> str:
    """Return a line such as ``Encoding images: 250 of 1,000, 10/s, 0:01:15 left.``."""
    if task.total is None:
        elapsed = timedelta(seconds=round(task.elapsed or 0))
        return f"{task.description}: {elapsed} so far."
    parts = [f"{task.description}: {task.completed:,.0f} of {task.total:,.0f}{task.fields['unit']}"]
    if task.fields["rate"]:
        parts.append(task.fields["rate"])
    if speed := _speed(task):
        left = timedelta(seconds=math.ceil((task.total - task.completed) / speed))
        parts.append(f"{left} left")
    return f"{', '.join(parts)}."


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
