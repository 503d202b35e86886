"""Encode the images of a training run before it starts, for example on another machine.

The options above decide which images are encoded, and how; --training.seed only matters for an
encoder with random weights (--encoder.weights None). The other options of `captioning train`,
except --features, are accepted too and do not change the features. After this command, a run of
`captioning train` with the same options and the same cache finds all features and encodes nothing.
Give --cache, or the --output of the later run.

Stored features are found by the content of an image: moved, renamed and copied images are not
encoded again, and removing images changes nothing for the others. Several processes can share a
cache. Before the first image, the command prints the bytes that are needed and the free space.
Repeat it to continue after an interruption.

For example:

    captioning features --data coco:COCO --cache features
    captioning features --data coco:COCO --cache features --decoder.core attention
    captioning features --data coco:COCO --cache features --check-stored
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from captioning.cli.progress import stderr_console
from captioning.cli.train import TrainConfig, parse_stages
from captioning.cli.train_progress import TrainingProgressReport
from captioning.errors import ConfigError
from captioning.processes import connect_processes, fail_together

_NO_OUTPUT = Path("-")


@dataclass(frozen=True)
class FeaturesConfig(TrainConfig):
    """The run whose images are encoded."""

    SECTIONS: ClassVar = {**TrainConfig.SECTIONS, "check_stored": "speed"}
    SHOWN: ClassVar = (
        *("data", "train_split", "validation_split", "val_fraction", "split_seed"),
        *("validation_limit", "config", "output", "init_from", "cache", "feature_dtype"),
        *("workers", "device", "check_stored", "name", "weights", "image_size", "fit", "core"),
        *("fine_tune_stages", "hflip", "cached_crops", "online_augmentation", "precision", "seed"),
    )

    output: Path = _NO_OUTPUT
    """Directory of the later training run. Without ``cache``, the features are stored next to it,
    in a directory with the name features (default: none)."""
    workers: int = 2
    """Number of processes that read image files (0: read in the main process)."""
    check_stored: bool = False
    """Verify the checksums of all stored features of these images, and encode damaged ones
    again."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cache is None and self.output == _NO_OUTPUT:
            raise ConfigError("cache is missing. Name the directory of the features with --cache.")
        if self.features is not None:
            raise ConfigError(
                "--features names features that exist already, so there is nothing to encode. "
                "Remove --features."
            )


def parse(words: Sequence[str]) -> tuple[FeaturesConfig, ...]:
    """Return the stages of the run from the words of a command line.

    Raises:
        ConfigError: A setting is not valid.
    """
    return parse_stages(FeaturesConfig, words, "features", __doc__)


def run(config: tuple[FeaturesConfig, ...]) -> int:
    """Run ``captioning features``, and return the exit code: 1 if images cannot be read."""
    console = stderr_console()
    unreadable = False
    for number, stage in enumerate(config, 1):
        if number > 1 and stage.init_from is not None and not stage.init_from.is_dir():
            console.print(f"Stage {number} needs the model of stage {number - 1}. Train it first.")
            break
        unreadable |= _encode(stage)
    return int(unreadable)


def _encode(config: FeaturesConfig) -> bool:
    """Encode the images of a stage, and return whether some cannot be read."""
    from captioning.training.encoded_data import encode_data  # imports torch

    connect_processes(config.device)
    console = stderr_console()
    with TrainingProgressReport(console) as report, fail_together():
        callback = report.callback.for_process()
        data = encode_data(config.run_config(), callback, check_stored=config.check_stored)
    caches = (data.train.cache, data.validation.cache)
    stored = sum(len(cache.readable) for cache in caches)
    console.print(f"The features of {stored:,} images are stored in '{config.cache_directory}'.")
    return any(cache.unreadable for cache in caches)
