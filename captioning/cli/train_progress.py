"""Progress of a training run on standard error."""

import math
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from captioning.messages import format_count
from captioning.training.callback import ENCODING, TrainingCallback
from captioning.training.callback import Progress as StepProgress

if TYPE_CHECKING:  # slow to import, and --help does not need it
    from rich.console import Console
    from rich.progress import Task

_INTERVAL = 25.0  # seconds after which a line is due; the thread may be a few seconds late
_TRAINING = "Step"


class TrainingProgressReport:
    """Progress of a run: bars in a terminal, otherwise a line at least every 30 seconds.

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
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        self.console = console
        self.clock = clock
        self.poll = poll
        self.bars = Progress(
            "{task.description}",
            BarColumn(bar_width=8),  # all columns fit into 80 characters
            MofNCompleteColumn(),
            "{task.fields[rate]}",
            "left",
            TimeRemainingColumn(),
            console=console,
            get_time=clock,
            disable=not console.is_terminal,
            redirect_stdout=False,
        )
        self.phase: Task | None = None
        self.training: Task | None = None
        self.printed = clock()
        self.callback = TrainingCallback(
            on_message=self._print,
            on_phase=self._on_phase,
            on_progress=self._on_progress,
            on_step=self._on_step,
            on_resume=self._on_resume,
        )
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

    def print_if_due(self) -> None:
        """Print a line if the last one is too old."""
        with self._lock:
            task = self.phase or self.training
            if task is not None and self.clock() - self.printed >= _INTERVAL:
                self._print(_format_line(task))

    def _watch(self) -> None:
        while not self._stopped.wait(self.poll):
            self.print_if_due()

    def _print(self, text: str) -> None:
        with self._lock:
            self.console.print(text)
            self.printed = self.clock()

    def _on_phase(self, name: str) -> None:
        with self._lock:
            self._end_phase()
            self.phase = self._add_task(name, None)

    def _end_phase(self) -> None:
        if self.phase is not None:
            self.bars.remove_task(self.phase.id)
            self.phase = None

    def _on_progress(self, done: int, total: int) -> None:
        with self._lock:
            if self.phase is None:
                return
            if self.phase.total is None:
                # The speed is that of this session: work of an earlier one does not count.
                self._on_phase_total(done, total)
            self.bars.update(self.phase.id, completed=done)
            self.bars.update(self.phase.id, rate=f"{_speed(self.phase):.3g}/s")

    def _on_phase_total(self, done: int, total: int) -> None:
        assert self.phase is not None
        name = self.phase.description
        if name == ENCODING and done < total and not self.console.is_terminal:
            images = format_count(total - done, "image")
            self._print(f"Encoding {images}; later runs use the cache.")
        self._end_phase()
        self.phase = self._add_task(name, total, done)

    def _on_resume(self, done: int, total: int) -> None:
        with self._lock:
            self.training = self._add_task(_TRAINING, total, done)

    def _on_step(self, state: StepProgress) -> None:
        with self._lock:
            self._end_phase()
            if self.training is None:
                self.training = self._add_task(_TRAINING, state.steps, state.step)
            rate = f"{state.captions_per_second:.0f} captions/s, loss {state.loss:.3f}"
            self.bars.update(self.training.id, completed=state.step, total=state.steps, rate=rate)

    def _add_task(self, name: str, total: int | None, done: int = 0) -> "Task":
        task = self.bars.add_task(name, total=total, completed=done, first=done, rate="")
        return self.bars.tasks[self.bars.task_ids.index(task)]


def _speed(task: "Task") -> float:
    """Return the items per second since the start of a task, with all pauses."""
    return (task.completed - task.fields["first"]) / (task.elapsed or math.inf)


def _format_line(task: "Task") -> str:
    if task.total is None:
        elapsed = timedelta(seconds=round(task.elapsed or 0))
        return f"{task.description}: {elapsed} so far."
    done = f"{task.completed:,.0f} of {task.total:,.0f}"
    speed = _speed(task)
    if task.description == _TRAINING:
        parts = [f"{_TRAINING} {done}"] + [task.fields["rate"]] * bool(task.fields["rate"])
    else:
        parts = [f"{task.description}: {done}"] + [f"{speed:.3g}/s"] * bool(speed)
    if speed:
        left = timedelta(seconds=math.ceil((task.total - task.completed) / speed))
        parts.append(f"{left} left")
    return f"{', '.join(parts)}."
