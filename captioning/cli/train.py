"""Train a model on captioned photos.

--preset NAME makes the decoder one of the literature's captioners: m-rnn, neuraltalk,
show-and-tell, lrcn, minds-eye, show-attend-tell, up-down or language-model. All other settings
still apply, and change it.
"""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from captioning.cli.progress import stderr_console
from captioning.errors import ConfigError
from captioning.messages import format_count
from captioning.nn.presets import PRESETS, preset
from captioning.training import Progress as TrainingProgress
from captioning.training import RunConfig, TrainingCallback, train
from captioning.training.memory import disable_malloc_trim

_PRESET = "--preset"


class _Bars:
    """Two bars on standard error: images looked at, and batches with captions per second."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=8),  # all columns fit into 80 characters
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            redirect_stdout=False,
        )
        self.looking: TaskID | None = None
        self.training: TaskID | None = None

    def on_message(self, text: str) -> None:
        self.console.print(text)

    def on_encode(self, done: int, total: int) -> None:
        if self.looking is None and done == total:
            return  # another process has looked at them
        if self.looking is None:
            self.looking = self.progress.add_task("images", total=total, rate="")
            if not self.console.is_terminal:  # there is no progress bar
                images = format_count(total - done, "image")
                self.on_message(f"Encoding {images}.")
        self.progress.update(self.looking, completed=done, total=total)
        if done == total:
            self.looking = None

    def on_resume(self, done: int, total: int) -> None:
        self._start(total)
        assert self.training is not None
        self.progress.update(self.training, completed=done)

    def on_step(self, state: TrainingProgress) -> None:
        if self.training is None:
            self._start(state.steps)
        assert self.training is not None
        self.progress.update(
            self.training,
            completed=state.step,
            rate=f"{state.captions_per_second:.0f} captions/s, loss {state.loss:.3f}",
        )

    def _start(self, total: int) -> None:
        self.training = self.progress.add_task("training", total=total, rate="")


def take_preset(words: Sequence[str]) -> tuple[list[str], RunConfig | None]:
    """Return the command's words without ``--preset NAME``, and the settings it stands for.

    Raises:
        ConfigError: The name is missing or unknown, or given twice.
    """
    import tyro

    joined = [part for word in words for part in _parted(word)]
    if (count := joined.count(_PRESET)) == 0:
        return list(words), None
    place = joined.index(_PRESET)
    name = joined[place + 1] if place + 1 < len(joined) else ""
    if count > 1 or not name or name.startswith("-"):
        raise ConfigError(f"Give --preset once, and one name with it: {', '.join(PRESETS)}.")
    default = RunConfig(data=("",), output=Path(), decoder=preset(name))
    for required in ("data", "output"):  # past the type, which has no word for "not given yet"
        object.__setattr__(default, required, tyro.MISSING)
    return joined[:place] + joined[place + 2 :], default


def _parted(word: str) -> list[str]:
    return word.split("=", 1) if word.startswith(f"{_PRESET}=") else [word]


def run(config: RunConfig) -> int:
    """Train, and return the exit code."""
    console = stderr_console()
    disable_malloc_trim()
    bars = _Bars(console)
    callback = TrainingCallback(bars.on_message, bars.on_encode, bars.on_step, bars.on_resume)
    try:
        with bars.progress:
            model = train(config, callback)
    except KeyboardInterrupt:
        console.print("Interrupted. Give the same command again to go on.")
        return 130
    console.print(f"The model is in {model}")
    return 0
