"""Download a public data set of captioned images, and unpack it.

The command shows the sizes, the free space and the terms of use, and asks before it starts. An
interrupted download continues when you repeat the command. The size and the checksum (SHA-256,
for Flickr8k MD5) of each archive are checked; then it is unpacked and deleted. An archive that was
unpacked before is not downloaded again. The last line that it prints is the option --data for
`captioning train`. Exit code: 0 if the data set is complete, 1 if the command failed, 2 for wrong
usage.

    coco       COCO 2014 with Karpathy's split: 123,287 images, 20 GB
    coco2017   COCO 2017 with the official split: 123,287 images, 20 GB
    flickr8k   Flickr8k: 8,091 images, 1 GB

For example:

    captioning data download flickr8k -o data/flickr8k
    captioning data download coco -o data/coco --yes
    captioning data download coco2017 -o data/coco2017 --mirror https://mirror.example.org/coco
"""

import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from captioning.cli.progress import PhaseProgress, stderr_console
from captioning.errors import ConfigError, OutputError
from captioning.files import find_existing

if TYPE_CHECKING:  # slow to import, and --help does not need it
    from rich.console import Console

    from captioning.datasets.download import PlannedArchive, Step
    from captioning.datasets.public_archives import PublicData

_MEGABYTE = 1_000_000


@dataclass(frozen=True)
class DataDownloadConfig:
    """Download a public data set of captioned images."""

    name: Annotated[Literal["coco", "coco2017", "flickr8k"], tyro.conf.Positional]
    """Data set."""
    output: Annotated[Path, tyro.conf.arg(metavar="FOLDER", aliases=["-o"])]
    """Folder of the data set."""
    yes: bool = False
    """Start without asking."""
    keep_archives: bool = False
    """Keep the archives after unpacking them."""
    mirror: Annotated[str | None, tyro.conf.arg(metavar="URL")] = None
    """Folder on another server with copies of the archives (default: the publishers' servers)."""


def run(config: DataDownloadConfig) -> int:
    """Download the data set, and return the exit code."""
    from captioning.datasets.download import download, plan_downloads
    from captioning.datasets.public_archives import PUBLIC_DATA

    console, data = stderr_console(), PUBLIC_DATA[config.name]
    with PhaseProgress(console) as progress:
        progress.start("Looking up sizes")
        plan = plan_downloads(data.archives, config.output, mirror=config.mirror)
    if plan:
        _print_plan(console, data, plan, config)
        if not _confirm(config):
            console.print("Nothing was downloaded.")
            return 1
        with PhaseProgress(console) as progress:

            def report(step: "Step", name: str, done: int, total: int) -> None:
                unit, scale = ("files", 1) if step == "Unpacking" else ("MB", _MEGABYTE)
                progress.show(f"{step} {name}", done // scale, total // scale, unit)

            download(plan, config.output, keep_archives=config.keep_archives, on_progress=report)
    console.print(f"{data.title} is complete. Check it or train on it with:")
    folder = str(config.output)
    print(f"--data {shlex.quote(data.spec.format(folder, folder))}")  # noqa: T201
    return 0


def _print_plan(
    console: "Console",
    data: "PublicData",
    plan: "Sequence[PlannedArchive]",
    config: DataDownloadConfig,
) -> None:
    """Show what will be downloaded, its terms, and the disk space.

    Raises:
        OutputError: There is not enough free space.
    """
    from rich.filesize import decimal

    from captioning.datasets.download import measure_space

    console.print(f"{data.title}. {data.terms}")
    for each in plan:
        present = f", {each.present / each.size:.0%} downloaded" if each.present else ""
        console.print(f"  {decimal(each.size):>8}  {each.url}{present}")
    if done := len(data.archives) - len(plan):
        console.print(f"  Complete already: {done} of {len(data.archives)} archives.")
    needed = measure_space(plan, keep_archives=config.keep_archives)
    free = shutil.disk_usage(find_existing(config.output.absolute())).free
    console.print(f"Disk space: about {decimal(needed)} needed, {decimal(free)} free.")
    if free < needed:
        raise OutputError(
            f"not enough free space in '{config.output}': about {needed:,} bytes are needed, and "
            f"{free:,} are free. Make room, or use another folder."
        )


def _confirm(config: DataDownloadConfig) -> bool:
    if config.yes:
        return True
    if not sys.stdin.isatty():
        raise ConfigError("the download needs a confirmation, and there is no terminal. Add --yes.")
    print("Download? [y/N] ", end="", file=sys.stderr, flush=True)  # noqa: T201
    return sys.stdin.readline().strip().lower() in ("y", "yes")
