"""``captioning train``: a training run with its progress bars."""

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from captioning.commands.progress import talk
from captioning.training import Progress as TrainingProgress
from captioning.training import RunConfig, Watcher, train
from captioning.training.memory import keep_freed_memory


class _Bars:
    """Two bars on standard error: pictures encoded, and batches with captions per second."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("elapsed"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
        )
        self.looking: TaskID | None = None
        self.training: TaskID | None = None
        self.captions = 0
        self.seconds = 0.0
        self.last = time.monotonic()

    def say(self, text: str) -> None:
        self.console.print(text)

    def looked(self, done: int, total: int) -> None:
        if self.looking is None:
            self.looking = self.progress.add_task("encoding pictures", total=total, rate="")
        self.progress.update(self.looking, completed=done, total=total)
        if done == total:
            self.looking = None

    def resumed(self, done: int, total: int) -> None:
        self._start(total)
        assert self.training is not None
        self.progress.update(self.training, completed=done)

    def stepped(self, state: TrainingProgress) -> None:
        now = time.monotonic()
        if self.training is None:
            self._start(state.steps)
        elif now - self.last < 5:  # a longer gap is the validation, not the training
            self.captions += state.captions
            self.seconds += now - self.last
        self.last = now
        rate = self.captions / self.seconds if self.seconds else 0.0
        assert self.training is not None
        self.progress.update(
            self.training,
            completed=state.step,
            rate=f"{rate:.0f} captions/s, loss {state.loss:.3f}",
        )

    def _start(self, total: int) -> None:
        self.training = self.progress.add_task("training", total=total, rate="")
        self.last = time.monotonic()


def run(config: RunConfig) -> int:
    """Train, and return the exit code."""
    console = talk()
    keep_freed_memory()
    bars = _Bars(console)
    watcher = Watcher(bars.say, bars.looked, bars.stepped, bars.resumed)
    try:
        with bars.progress:
            model = train(config, watcher)
    except KeyboardInterrupt:
        console.print("Interrupted. Give the same command again to go on.")
        return 130
    console.print(f"The model is in {model}")
    return 0
