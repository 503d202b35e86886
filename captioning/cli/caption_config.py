"""Config of ``captioning caption``."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from captioning.bulk.partition import Partition
from captioning.bulk.writers.registry import FORMAT_BY_SUFFIX, writes_per_image
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
    """Files, folders, quoted glob patterns, tar archives, URLs, or - to read a list of paths from
    standard input."""
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
    """Caption only every N-th image, starting with image I; `captioning merge` merges the results
    of all N partitions."""

    # Output
    output: OutputFile = None
    """Output file. For the formats txt, caption, xmp and embed, a folder; without it their files
    are written next to each image."""
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
    """Output format; auto uses the file extension of -o. txt, caption and xmp write one file per
    image. embed writes into the metadata of the images, or with -o of copies."""
    overwrite: bool = False
    """Replace existing captions: start -o again, or replace the captions of each image."""
    append: bool = False
    """Append to existing captions of an image (txt, caption, xmp, embed); without it, images that
    have captions are skipped."""
    prefix: str = ""
    """Text before each caption, including a space if you want one."""
    suffix: str = ""
    """Text after each caption."""
    dry_run: bool = False
    """Print what would be captioned, and do nothing."""
    json: bool = False
    """Print a summary as JSON at the end: to standard output if there is -o, else to standard
    error."""

    # Model
    model: Annotated[
        str | None,
        tyro.conf.arg(metavar="MODEL", help_behavior_hint="(default: the packaged model)"),
    ] = None
    """Model directory, or id on the Hugging Face hub."""
    device: str = "cpu"
    """Device of the model: cpu, cuda or mps."""
    consensus_data: Annotated[
        tuple[str, ...],
        tyro.conf.arg(metavar="DATA ...", help_behavior_hint="(default: none)"),
    ] = ()
    """Captioned data sets (``flickr8k:DIR``) for consensus reranking: of the captions found, the
    one closest to the captions of similar training images wins."""
    cache: Path = Path("features")
    """Directory of the feature vectors of ``--consensus-data``, kept for later runs."""

    # Search
    captions: Annotated[int, tyro.conf.arg(aliases=["--n"])] = 1
    """Captions per image (1 or more)."""
    beam: Annotated[
        int | None,
        tyro.conf.arg(metavar="INT", help_behavior_hint="(default: the model's own search)"),
    ] = None
    """Beam width (1 or more)."""
    length_penalty: Annotated[
        float | None,
        tyro.conf.arg(metavar="NUMBER", help_behavior_hint="(default: the model's own)"),
    ] = None
    """Exponent of the length by which beam search divides scores: 0 prefers short captions, 1 long
    ones."""
    no_repeat_ngram: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: the model's own)")
    ] = None
    """Block repeated n-grams of this size (0: off)."""
    no_double_word: bool = False
    """Block a word that occurred among the last two words; many models do so by default."""
    rerank_weight: Annotated[
        float | None,
        tyro.conf.arg(metavar="NUMBER", help_behavior_hint="(default: the model's own)"),
    ] = None
    """Weight of n-gram reranking of the captions that beam search finds (0: off)."""
    sample: bool = False
    """Sample captions instead of searching for the most probable ones."""
    temperature: float = 1.0
    """Softmax temperature of --sample (above 0); higher values give more varied captions."""
    top_k: int = 0
    """Sample only from this many most probable words (0: all); needs --sample."""
    top_p: float = 1.0
    """Sample only from the most probable words up to this total probability; needs --sample."""
    seed: int = 0
    """Random seed of --sample."""

    # Image loading
    batch_size: Literal["auto"] | int = "auto"
    """Images per batch; halved automatically if the device runs out of memory."""
    workers: int = 2
    """Processes that decode images (0: decode in the main process)."""
    time_limit: float = 60.0
    """Seconds after which an image that cannot be decoded or fetched fails; needs --workers."""
    allow_truncated: bool = False
    """Caption the readable part of truncated image files."""


def check_config(config: CaptionConfig) -> None:
    """Check the flags, alone and in combination.

    Raises:
        ConfigError: A value is out of range, or two flags exclude each other.
    """
    _check_search(config)
    check_minimum(config, captions=1, workers=0)
    if config.batch_size != "auto":
        check_minimum(config, batch_size=1)
    if config.limit is not None:
        check_minimum(config, limit=1)
    if config.consensus_data and not config.paths:
        raise ConfigError(
            "No images given: everything after --consensus-data is a data set. Name the images "
            f"first: captioning caption IMAGES --consensus-data {config.consensus_data[0]}"
        )
    if config.overwrite and config.append:
        raise ConfigError("--overwrite and --append exclude each other. Give only one of them.")
    if not 0 <= config.seed < 2**63:
        raise ConfigError(f"seed is {config.seed}; it must be between 0 and 2**63 - 1.")
    partition_of(config)
    _check_images_are_files(config)


def _check_search(config: CaptionConfig) -> None:
    if config.sample:
        for name in ("beam", "length_penalty", "rerank_weight"):
            if getattr(config, name) is not None:
                flag = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{flag} is for beam search. Remove it, or remove --sample.")
        if config.consensus_data:
            raise ConfigError("--consensus-data needs beam search. Remove it, or remove --sample.")
    elif config.temperature != 1.0 or config.top_k != 0 or config.top_p != 1.0:
        raise ConfigError("--temperature, --top-k and --top-p need --sample. Add --sample.")


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
