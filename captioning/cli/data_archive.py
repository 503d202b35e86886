"""Write the images of a split and their captions as tar archives in the layout of webdataset.

A few large files are faster than many small ones on network disks and in object stores, and other
programs for training read them (webdataset, Hugging Face datasets). Images keep their bytes and
their order. Damaged images are left out and listed. Several splits may share a folder. An
interrupted command continues when you repeat it. Exit code: 0 if all images were written, 1 if
images were left out or the command failed, 2 for wrong usage.

For example:

    captioning data archive --data coco:COCO -o archives
    captioning data archive --data coco:COCO --split val -o archives
    captioning data archive --data jsonl:rows.jsonl -o archives --archive-size 100
"""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from captioning.cli.progress import PhaseProgress, stderr_console
from captioning.datasets.spec import TRAIN_SPLIT
from captioning.messages import check_minimum, escape_unprintable, format_count

_LISTED = 20  # damaged images


@dataclass(frozen=True)
class DataArchiveConfig:
    """Write the images of a split and their captions as tar archives."""

    data: Annotated[str, tyro.conf.arg(metavar="FORMAT:PATH[@IMAGES]")]
    """Data set, named as for ``captioning train``."""
    output: Annotated[Path, tyro.conf.arg(metavar="FOLDER", aliases=["-o"])]
    """Folder of the archives, which are named SPLIT-000000.tar, SPLIT-000001.tar, ..."""
    split: str = TRAIN_SPLIT
    """Data set split: train, val or test. restval is a second training part, which only Karpathy's
    COCO split has."""
    archive_size: int = 500
    """Maximum size of an archive in megabytes (1 or more)."""
    workers: int = 2
    """Number of processes that decode images to find damaged ones (0: in the main process)."""

    def __post_init__(self) -> None:
        check_minimum(self, archive_size=1, workers=0)


def run(config: DataArchiveConfig) -> int:
    """Write the archives, and return the exit code."""
    from rich.filesize import decimal

    from captioning.datasets import read_captions
    from captioning.datasets.archive_writer import describe_archives, write_archives

    console = stderr_console()
    with PhaseProgress(console) as progress:
        progress.start("Reading the data set")
        split = read_captions(config.data, split=config.split)
    for line in filter(None, split.problems.report().split("\n")):
        console.print(escape_unprintable(line))

    def announce(count: int, size: int) -> None:
        if count:
            archives = format_count(count, "archive")
            console.print(f"Writing {archives}, {decimal(size)}, to {config.output}.")

    with PhaseProgress(console) as progress:
        progress.start("Archiving images")
        archives = write_archives(
            split,
            config.output,
            max_bytes=config.archive_size * 1_000_000,
            workers=config.workers,
            on_plan=announce,
            on_progress=progress.update,
        )
    damaged = [reason for archive in archives.values() for reason in archive.damaged]
    for reason in damaged[:_LISTED]:
        console.print(f"Left out: {escape_unprintable(reason)}")
    if len(damaged) > _LISTED:
        console.print(f"and {format_count(len(damaged) - _LISTED, 'more damaged image')}.")
    console.print(f"{config.output}: {describe_archives(archives)}. Train on them with:")
    print(f"--data {shlex.quote(f'tar:{config.output}')}")  # noqa: T201
    return 1 if damaged or len(split.problems) else 0
