"""Train a model on captioned images.

To resume a run that was stopped, run the same command again.

For example:

    captioning train --data flickr8k:Flickr8k --output runs/first
    captioning train --preset show-and-tell --data coco:COCO --output runs/nic
    captioning train --data karpathy:dataset.json --output runs/gru --decoder.cell gru
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from captioning.cli.progress import stderr_console
from captioning.errors import ConfigError
from captioning.messages import format_count
from captioning.nn.presets import PRESETS, preset
from captioning.training.callback import Progress as StepProgress
from captioning.training.callback import TrainingCallback
from captioning.training.config import RunConfig
from captioning.training.memory import disable_malloc_trim

if TYPE_CHECKING:  # slow to import, and --help does not need it
    from rich.console import Console
    from rich.progress import Task, TaskID

_MIN_INTERVAL = 30.0  # seconds between two lines of progress, in the first ten minutes
_LINE = {
    "images": "Encoded {} images",
    "training": "Step {}",
    "validation": "Captioned {} validation images",
}
_DIVISOR = 20  # later, the interval is the time so far divided by this


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """A training run, and the preset that sets the default values of its decoder."""

    SECTIONS: ClassVar = {**RunConfig.SECTIONS, "preset": "model"}

    preset: Annotated[str | None, tyro.conf.arg(metavar=f"{{{','.join(PRESETS)}}}")] = None
    """Decoder of a published captioning model, or a language model. Decoder options override its
    settings."""

    def run_config(self) -> RunConfig:
        """Return the run, without the preset: the decoder has its settings already."""
        return RunConfig(**{field.name: getattr(self, field.name) for field in fields(RunConfig)})


class TrainingProgressReport:
    """Progress of a run on standard error: bars in a terminal, otherwise a line now and then.

    Args:
        console: Console of standard error.
        clock: Returns the time in seconds.
    """

    def __init__(self, console: "Console", clock: Callable[[], float] = time.monotonic) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        self.console = console
        self.clock = clock
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
        self.tasks: dict[str, TaskID] = {}
        self.start = self.printed = clock()
        self.callback = TrainingCallback(
            on_message=console.print,
            on_encode=self._on_encode,
            on_step=self._on_step,
            on_validate=self._on_validate,
            on_resume=self._on_resume,
        )

    def _on_encode(self, done: int, total: int) -> None:
        if "images" not in self.tasks and done == total:
            return  # another process encoded them
        if "images" not in self.tasks and not self.console.is_terminal:
            images = format_count(total - done, "image")
            self.console.print(f"Encoding {images}; later runs use the cache.")
        self._update("images", done, total)

    def _on_validate(self, done: int, total: int) -> None:
        self._update("validation", done, total)

    def _on_resume(self, done: int, total: int) -> None:
        self._update("training", done, total)

    def _on_step(self, state: StepProgress) -> None:
        rate = f"{state.captions_per_second:.0f} captions/s, loss {state.loss:.3f}"
        self._update("training", state.step, state.steps, rate)

    def _update(self, name: str, done: int, total: int, rate: str = "") -> None:
        if name not in self.tasks:
            # The speed is that of this session: work of an earlier one does not count.
            self.tasks[name] = self.bars.add_task(name, total=total, completed=done, rate=rate)
        task = self.bars.tasks[self.bars.task_ids.index(self.tasks[name])]
        self.bars.update(task.id, completed=done, total=total, rate=rate)
        if not self.console.is_terminal and self._is_due():
            self._print_line(task)
        if done == total and name != "training":
            self.bars.update(task.id, visible=name == "images")
            del self.tasks[name]  # the next split, or the next epoch

    def _is_due(self) -> bool:
        """Whether to print a line. The intervals grow, so that long runs have short logs."""
        now = self.clock()
        if now - self.printed < max(_MIN_INTERVAL, (now - self.start) / _DIVISOR):
            return False
        self.printed = now
        return True

    def _print_line(self, task: "Task") -> None:
        parts = [_LINE[task.description].format(f"{task.completed:,.0f} of {task.total:,.0f}")]
        parts += [task.fields["rate"]] if task.fields["rate"] else []
        if task.time_remaining:
            parts.append(f"{timedelta(seconds=math.ceil(task.time_remaining))} left")
        self.console.print(f"{', '.join(parts)}.")


def apply_preset(arguments: Sequence[str]) -> Callable[..., TrainConfig]:
    """Return TrainConfig, with the decoder of ``--preset NAME`` as default.

    Raises:
        ConfigError: The name is missing or unknown, or there are several presets.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--preset", action="append", default=[])
    try:
        found, _ = parser.parse_known_args(arguments)
    except argparse.ArgumentError:
        found = argparse.Namespace(preset=[""])
    if not found.preset:
        return TrainConfig
    if len(found.preset) > 1 or not found.preset[0]:
        raise ConfigError(f"--preset needs one name, once. Presets: {', '.join(PRESETS)}.")
    defaults = {
        field.name: field.default_factory()
        for field in fields(TrainConfig)
        if field.default_factory is not MISSING
    }
    return partial(TrainConfig, **{**defaults, "decoder": preset(found.preset[0])})


def run(config: TrainConfig) -> int:
    """Run ``captioning train``, and return the exit code."""
    return run_training(config.run_config())


def run_training(config: RunConfig) -> int:
    """Train with a report of progress on standard error, and return the exit code."""
    from captioning.training.run import train  # imports torch

    console = stderr_console()
    disable_malloc_trim()
    report = TrainingProgressReport(console)
    try:
        with report.bars:
            result = train(config, report.callback)
    except KeyboardInterrupt:
        console.print("Interrupted. Run the same command again to resume.")
        return 130
    console.print(f"Saved the model to {result.model_dir}.")
    return 0
