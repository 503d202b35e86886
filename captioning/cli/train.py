"""Train a model on captioned images.

To resume a run that was stopped, run the same command again.

For example:

    captioning train --data flickr8k:Flickr8k --output runs/first
    captioning train --preset show-and-tell --data coco:COCO --output runs/nic
    captioning train --data karpathy:dataset.json --output runs/gru --decoder.cell gru
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import partial
from typing import Annotated, ClassVar

import tyro

from captioning.cli.progress import stderr_console
from captioning.cli.train_progress import TrainingProgressReport
from captioning.errors import ConfigError
from captioning.nn.presets import PRESETS, preset
from captioning.training.config import RunConfig
from captioning.training.memory import disable_malloc_trim


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
        with report:
            result = train(config, report.callback)
    except KeyboardInterrupt:
        console.print("Interrupted. Run the same command again to resume.")
        return 130
    console.print(f"Saved the model to {result.model_dir}.")
    return 0
