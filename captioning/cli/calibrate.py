"""Prepare a model for int8 (8-bit integers), the fastest precision on a CPU.

The ranges of the encoder's activations are measured on images and written into the model directory.
Give images like those that will be captioned; captions are not needed. Exit code: 0 if every image
was read, 1 if some images failed, 2 for wrong usage.

For example:

    captioning calibrate runs/first/model --images photos
    captioning calibrate runs/first/model --images photos/2024 photos/2025
    captioning calibrate runs/first/model --images 'photos/*.jpg' --limit 100
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from captioning.cli.progress import stderr_console
from captioning.errors import DataError
from captioning.messages import check_minimum, format_count

if TYPE_CHECKING:
    from torch import Tensor

_BATCH_SIZE = 16


@dataclass(frozen=True)
class CalibrateConfig:
    """Prepare a model for int8."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Model directory."""
    images: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH ...")]
    """Files, folders, quoted glob patterns, archives and URLs. Folders include subfolders."""
    limit: int = 256
    """Number of images that are used, spread evenly over all (1 or more)."""
    workers: int = 2
    """Number of processes that read image files (0: read in the main process)."""

    def __post_init__(self) -> None:
        check_minimum(self, limit=1, workers=0)


def run(config: CalibrateConfig) -> int:
    """Measure and write the ranges, and return the exit code."""
    from captioning.checkpoint import load_checkpoint
    from captioning.checkpoint.save import save_ranges
    from captioning.images.loader import ImageLoader
    from captioning.nn.activation_ranges import measure_ranges
    from captioning.sources.find import SourceConfig, find_images

    encoder = load_checkpoint(config.model).model.encoder
    images = list(find_images(config.images, SourceConfig(recursive=True, follow_links=True)))
    count = min(len(images), config.limit)
    images = [images[number * len(images) // count] for number in range(count)]
    loader = ImageLoader(encoder.preprocessing, _BATCH_SIZE, config.workers)
    errors: list[str] = []

    def read() -> "Iterator[Tensor]":
        for batch in loader.batches(images):
            errors.extend(filter(None, batch.errors))
            if len(batch.pixels):
                yield batch.pixels

    ranges = measure_ranges(encoder, read())
    if not ranges:
        reason = f"The first error: {errors[0]}" if errors else "There are none."
        raise DataError(f"none of the images can be read. {reason}")
    path = save_ranges(ranges, config.model)
    console = stderr_console()
    read_count = format_count(len(images) - len(errors), "image")
    console.print(f"Measured {len(ranges)} convolutions on {read_count}. Wrote {path}.")
    for error in errors[:5]:
        console.print(f"Not used: {error}")
    return 1 if errors else 0
