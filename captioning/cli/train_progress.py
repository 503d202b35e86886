"""Progress of a training run on standard error."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from captioning.cli.progress import PhaseProgress
from captioning.training.callback import Progress, TrainingCallback

if TYPE_CHECKING:  # slow to import, and --help does not need it
    from rich.console import Console
    from rich.progress import Task


class TrainingProgressReport(PhaseProgress):
    """Progress of a run: that of the current phase, else that of all steps.

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
        super().__init__(console, clock, poll=poll)
        self.training: Task | None = None
        self.callback = TrainingCallback(
            on_message=self.print,
            on_phase=self.start,
            on_progress=self.update,
            on_step=self._on_step,
            on_resume=self._on_resume,
        )

    @property
    def current(self) -> "Task | None":
        """The current phase, or the steps."""
        return self.phase or self.training

    def _on_resume(self, done: int, total: int) -> None:
        with self._lock:
            self.training = self.add_task("Training", total, done, "steps")

    def _on_step(self, state: Progress) -> None:
        with self._lock:
            self.end()
            if self.training is None:
                self.training = self.add_task("Training", state.steps, state.step, "steps")
            rate = f"{state.captions_per_second:.0f} captions/s, loss {state.loss:.3f}"
            self.bars.update(self.training.id, completed=state.step, total=state.steps, rate=rate)
