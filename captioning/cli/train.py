"""Train a model on captioned images.

To resume a run that was stopped, run the same command again. After SIGTERM, the command saves the
state and exits with code 75. To train on several GPUs:

    torchrun --nproc-per-node 8 -m captioning train ...

For example:

    captioning train --data flickr8k:Flickr8k --output runs/first
    captioning train --config up-down --data karpathy:dataset_coco.json --output runs/up-down
    captioning train --config run.yaml training.epochs=30 --output runs/gru --decoder.cell gru

Options are set in the config file (--config), by KEY=VALUE arguments, and by flags. An argument
replaces the value of the file, and a flag replaces both. KEY is the name of a flag without the
leading --, and with _ instead of -. stages.NAME.KEY=VALUE sets the option for one stage of a
recipe. Paths in a config file are relative to the current directory.
"""

import argparse
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, ClassVar, TypeVar

from captioning.cli.help_texts import name_flags, parse_config
from captioning.cli.progress import stderr_console
from captioning.cli.train_progress import TrainingProgressReport
from captioning.errors import ConfigError
from captioning.processes import connect_processes
from captioning.training.config import RunConfig
from captioning.training.memory import disable_malloc_trim
from captioning.training.recipes import read_run_file


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """A training run, and the file that sets its default values."""

    SECTIONS: ClassVar = {**RunConfig.SECTIONS, "config": "input"}

    config: str | None = None
    """Config file: a YAML or JSON file with values of options, such as the settings.json of a run.
    Or the name of a recipe, which is a config file in the package (``captioning recipes``)."""

    def run_config(self) -> RunConfig:
        """Return the run, without the name of the file: its settings are in the run already."""
        return RunConfig(**{field.name: getattr(self, field.name) for field in fields(RunConfig)})


Stage = TypeVar("Stage", bound=TrainConfig)


def parse(words: Sequence[str]) -> tuple[TrainConfig, ...]:
    """Return the stages of a run from the words of a command line.

    Raises:
        ConfigError: The file or a setting is not valid.
    """
    return parse_stages(TrainConfig, words, "train", __doc__)


def parse_stages(
    kind: type[Stage], words: Sequence[str], command: str, description: str | None
) -> tuple[Stage, ...]:
    """Return the stages of a run from the words of a command line.

    Each stage trains in a directory of its own, and starts from the model of the one before.

    Args:
        kind: Type of a stage.
        words: Arguments of the command.
        command: Name of the command, for the usage line.
        description: Text for the help of the command.

    Raises:
        ConfigError: The file or a setting is not valid.
    """
    setting = re.compile(rf"(?:stages|{'|'.join(f.name for f in fields(RunConfig))})(?:\.\S+?)?=")
    settings = [word for word in words if setting.match(word)]
    flags = [word for word in words if not setting.match(word)]
    file = read_run_file(_find_file(flags), settings)
    stages: list[Stage] = []
    for name, values in file.stages.items():
        initial: dict[str, Any] = {"init_from": stages[-1].output / "model"} if stages else {}
        defaults = partial(kind, **values, **initial)
        config = parse_config(command, defaults, flags, description)
        output, cache = config.output / name, config.cache_directory
        stages.append(replace(config, output=output, cache=cache, **initial) if name else config)
    if sum(stage.resume is not None for stage in stages) > 1:
        raise ConfigError(
            f"--resume continues one run, and the config has {len(stages)} stages. Set it for one "
            f"of them: stages.{next(iter(file.stages))}.resume=DIR."
        )
    return tuple(stages)


def _find_file(words: Sequence[str]) -> str:
    """Return the value of ``--config``, or an empty string."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", action="append", default=[])
    try:
        names: list[str] = parser.parse_known_args(words)[0].config
    except argparse.ArgumentError:
        names = [""]
    if len(names) > 1 or names == [""]:
        raise ConfigError(
            "--config has no value, or is given twice. Pass one config file, or the name of one "
            "recipe (captioning recipes lists them)."
        )
    return names[0] if names else ""


def run(config: tuple[TrainConfig, ...]) -> int:
    """Run ``captioning train``, and return the exit code."""
    connect_processes(config[0].device)
    for number, stage in enumerate(config, 1):
        if len(config) > 1:
            stderr_console().print(f"Stage {number} of {len(config)}: {stage.output}")
        if code := run_training(stage.run_config()):
            return code
    return 0


def run_training(config: RunConfig) -> int:
    """Train with a report of progress on standard error, and return the exit code."""
    from captioning.training.run import train  # imports torch

    console = stderr_console()
    disable_malloc_trim()
    report = TrainingProgressReport(console)

    def print_message(text: str) -> None:
        report.callback.on_message(name_flags(text, TrainConfig))

    stop = threading.Event()
    callback = replace(report.callback, on_message=print_message, should_stop=stop.is_set)
    try:
        with report, _on_terminate(stop.set):
            result = train(config, callback)
    except KeyboardInterrupt:
        console.print("Interrupted. Run the same command again to resume.")
        return 130
    console.print(f"Saved the model to {result.model_dir}.")
    return 0


@contextmanager
def _on_terminate(function: Callable[[], None]) -> Iterator[None]:
    """Call a function when SIGTERM arrives, which SLURM and ``kill`` send."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can set handlers
        return
    previous = signal.signal(signal.SIGTERM, lambda number, frame: function())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
