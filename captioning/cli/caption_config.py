"""Config of ``captioning caption``."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from captioning.bulk.partition import Partition
from captioning.bulk.writers.registry import FORMAT_BY_SUFFIX, writes_per_image
from captioning.cli.consensus import ConsensusFlags
from captioning.cli.search_flags import SearchFlags
from captioning.errors import ConfigError
from captioning.messages import check_minimum
from captioning.sources.archives import is_archive

OutputFile = Annotated[
    Path | None,
    tyro.conf.arg(metavar="FILE", aliases=["-o"], help_behavior_hint="(default: standard output)"),
]
"""A flag that names the output of a command."""


@dataclass(frozen=True)
class CaptionConfig:
    """Caption images and folders of images."""

    # Input
    paths: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="PATH ...", help_behavior_hint=""),
    ] = ()
    """Files, folders, quoted glob patterns, archives, URLs; - reads paths from standard input."""
    recursive: Annotated[bool, tyro.conf.arg(aliases=["-r"])] = False
    """Include the images in subfolders."""
    follow_links: bool = False
    """Follow symbolic links that lead out of a folder, and links to folders."""
    limit: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: all)")
    ] = None
    """Caption at most this many images (1 or more)."""
    partition: Annotated[
        str | None, tyro.conf.arg(metavar="I/N", help_behavior_hint="(default: all)")
    ] = None
    """Caption every N-th image, from image I on. `captioning merge` merges all N results."""

    # Output
    output: OutputFile = None
    """Output file; for txt, caption, xmp and embed a folder, otherwise that of each image."""
    format: Literal[
        "auto",
        "text",
        "jsonl",
        "csv",
        "coco",
        "parquet",
        "html",
        "txt",
        "caption",
        "xmp",
        "embed",
    ] = "auto"
    """Output format; auto takes it from the file extension of -o.
    txt, caption and xmp write one file per image. embed writes into the metadata of the images."""
    overwrite: bool = False
    """Replace existing captions: start -o again, or replace the captions of each image."""
    append: bool = False
    """Append to existing captions of each image, instead of skipping the image."""
    keep_time: bool = False
    """Keep the modification time of images that captions are embedded in."""
    prefix: str = ""
    """Text before each caption, including a space if you want one."""
    suffix: str = ""
    """Text after each caption."""
    dry_run: bool = False
    """Print what would be captioned, and do nothing."""
    json: bool = False
    """Print a summary as JSON at the end, on standard error if there is no -o."""

    # Model
    model: Annotated[
        str | None,
        tyro.conf.arg(metavar="MODEL", help_behavior_hint="(default: the packaged model)"),
    ] = None
    """Model directory, or id on the Hugging Face hub."""
    device: str = "auto"
    """Device of the model: auto, cpu, cuda or mps."""
    consensus: Annotated[ConsensusFlags, tyro.conf.arg(name="")] = field(
        default_factory=ConsensusFlags
    )

    # Search
    search: Annotated[SearchFlags, tyro.conf.arg(name="")] = field(default_factory=SearchFlags)
    seed: int = 0
    """Random seed of sampling (0 or more)."""

    # Image loading
    batch_size: Literal["auto"] | int = "auto"
    """Images per batch; halved automatically if the device runs out of memory."""
    workers: int = 2
    """Processes that decode images (0: decode in the main process)."""
    time_limit: float = 60.0
    """Seconds after which reading an image is given up (above 0); needs --workers."""
    allow_truncated: bool = False
    """Caption the readable part of truncated image files."""


def check_config(config: CaptionConfig) -> None:
    """Check the flags, alone and in combination.

    Raises:
        ConfigError: A value is out of range, or two flags exclude each other.
    """
    check_minimum(config, workers=0)
    if config.batch_size != "auto":
        check_minimum(config, batch_size=1)
    if config.limit is not None:
        check_minimum(config, limit=1)
    _check_order(config)
    if config.overwrite and config.append:
        raise ConfigError("--overwrite and --append exclude each other. Give only one of them.")
    if config.keep_time and resolve_format(config) != "embed":
        raise ConfigError("--keep-time needs --format embed. Add it, or remove --keep-time.")
    if not 0 <= config.seed < 2**63:
        raise ConfigError(f"seed is {config.seed}; it must be between 0 and 2**63 - 1.")
    partition_of(config)
    _check_images_are_files(config)


def _check_order(config: CaptionConfig) -> None:
    """Refuse a command whose images were read as the values of a flag before them."""
    given = config.search.given()
    lists = {
        "--consensus-data": config.consensus.consensus_data,
        "--required-words": given.get("required_words"),
        "--forbidden-words": given.get("forbidden_words"),
    }
    for flag, values in lists.items():
        if values and not config.paths:
            raise ConfigError(
                f"No images given: everything after {flag} belongs to this flag. Name the images "
                f"first: captioning caption IMAGES {flag} {values[0]}"
            )


def _check_images_are_files(config: CaptionConfig) -> None:
    """Refuse outputs next to, or inside, images that are not files."""
    format_name, paths = resolve_format(config), paths_without_files(config)
    if not paths or not writes_per_image(format_name):
        return
    if format_name == "embed":
        raise ConfigError(
            f"cannot embed captions in the images of {paths[0]}: they are not files. Unpack or "
            "download the images first, or choose another --format, such as jsonl."
        )
    if config.output is None:
        raise ConfigError(
            f"cannot write {format_name} files next to the images of {paths[0]}: the images are "
            "not files. Give a folder with -o."
        )


def paths_without_files(config: CaptionConfig) -> list[str]:
    """Return the inputs whose images are not files: archives and URLs."""
    return [
        name
        for name in config.paths
        if "://" in name or (is_archive(name) and not os.path.isdir(name))  # noqa: PTH112
    ]


def partition_of(config: CaptionConfig) -> Partition | None:
    """Return the partition to caption; None for all images."""
    return None if config.partition is None else Partition.parse(config.partition)


def existing_policy(config: CaptionConfig) -> Literal["keep", "replace", "append"]:
    """Return what happens to images that have captions already."""
    if config.append:
        return "append"
    return "replace" if config.overwrite else "keep"


def resolve_format(config: CaptionConfig) -> str:
    """Return the output format, derived from -o if it is ``auto``.

    Raises:
        ConfigError: The format is unknown, or cannot append.
    """
    format_name: str = config.format
    if format_name == "auto":
        format_name = _format_of_output(config.output)
    if config.append and not writes_per_image(format_name):
        raise ConfigError(
            f"--append needs one output per image (txt, caption, xmp, embed), not {format_name}."
        )
    return format_name


def _format_of_output(output: Path | None) -> str:
    if output is None:
        return "text" if sys.stdout is not None and sys.stdout.isatty() else "jsonl"
    return format_of_file(output)


def format_of_file(path: Path) -> str:
    """Return the format of a file by its extension.

    Raises:
        ConfigError: The extension is unknown.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMAT_BY_SUFFIX:
        raise ConfigError(
            f"cannot derive the format of {path} from its file extension. Give the format, or use "
            f"one of {', '.join(FORMAT_BY_SUFFIX)}."
        )
    return FORMAT_BY_SUFFIX[suffix]
