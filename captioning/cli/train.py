"""Train a model on captioned images.

--preset NAME selects the decoder of a published captioning model: m-rnn, neuraltalk, show-and-tell,
lrcn, minds-eye, show-attend-tell, up-down, or language-model. Other flags change its settings. To
resume a run that was stopped, run the same command again.

For example:

    captioning train --data flickr8k:Flickr8k --output runs/first
    captioning train --preset show-and-tell --data coco:COCO --output runs/nic
    captioning train --data karpathy:dataset.json --output runs/gru --decoder.cell gru
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn

from captioning.cli.progress import stderr_console
from captioning.errors import ConfigError
from captioning.messages import format_count
from captioning.nn.presets import PRESETS, preset
from captioning.training import Progress as TrainingProgress
from captioning.training import RunConfig, TrainingCallback, train
from captioning.training.memory import disable_malloc_trim


class _Bars:
    """Progress bars on standard error: encoded images, and training steps."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            "{task.description}",
            BarColumn(bar_width=8),  # all columns fit into 80 characters
            MofNCompleteColumn(),
            "{task.fields[rate]}",
            "left",
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            redirect_stdout=False,
        )
        self.encoding: TaskID | None = None
        self.training: TaskID | None = None

    def on_encode(self, done: int, total: int) -> None:
        if self.encoding is None and done == total:
            return  # another process encoded them
        if self.encoding is None:
            self.encoding = self.progress.add_task("images", total=total, rate="")
            if not self.console.is_terminal:  # there is no bar
                images = format_count(total - done, "image")
                self.console.print(f"Encoding {images}. The features are cached.")
        self.progress.update(self.encoding, completed=done, total=total)
        if done == total:
            self.encoding = None

    def on_resume(self, done: int, total: int) -> None:
        self.progress.update(self._training_task(total), completed=done)

    def on_step(self, state: TrainingProgress) -> None:
        self.progress.update(
            self._training_task(state.steps),
            completed=state.step,
            rate=f"{state.captions_per_second:.0f} captions/s, loss {state.loss:.3f}",
        )

    def _training_task(self, total: int) -> TaskID:
        if self.training is None:
            self.training = self.progress.add_task("training", total=total, rate="")
        return self.training


def split_preset(arguments: Sequence[str]) -> tuple[list[str], Callable[..., RunConfig]]:
    """Remove ``--preset NAME`` from the arguments of the command.

    Returns:
        The other arguments, and the function or class whose parameters they set: RunConfig, with
        the decoder of the preset as default.

    Raises:
        ConfigError: The name is missing or unknown, or there are several presets.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--preset", action="append", default=[])
    try:
        found, others = parser.parse_known_args(arguments)
    except argparse.ArgumentError:
        found, others = argparse.Namespace(preset=[""]), []
    if not found.preset:
        return list(arguments), RunConfig
    if len(found.preset) > 1 or not found.preset[0]:
        raise ConfigError(f"--preset needs one name, once. Presets: {', '.join(PRESETS)}.")
    defaults = {
        field.name: field.default_factory()
        for field in fields(RunConfig)
        if field.default_factory is not MISSING
    }
    return others, partial(RunConfig, **{**defaults, "decoder": preset(found.preset[0])})


def run(config: RunConfig) -> int:
    """Train, and return the exit code."""
    console = stderr_console()
    disable_malloc_trim()
    bars = _Bars(console)
    callback = TrainingCallback(
        on_message=console.print,
        on_encode=bars.on_encode,
        on_step=bars.on_step,
        on_resume=bars.on_resume,
    )
    try:
        with bars.progress:
            result = train(config, callback)
    except KeyboardInterrupt:
        console.print("Interrupted. Run the same command again to resume.")
        return 130
    console.print(f"Saved the model to {result.model_dir}.")
    return 0
