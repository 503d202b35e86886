"""Config of ``captioning caption``."""

import os
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from captioning.bulk.cluster.config import ClusterConfig
from captioning.bulk.partition import Partition
from captioning.bulk.writers.registry import FORMAT_BY_SUFFIX
from captioning.cli.consensus import ConsensusFlags
from captioning.cli.output_config import OutputConfig
from captioning.cli.search_flags import SearchFlags
from captioning.errors import ConfigError
from captioning.files import is_special_file
from captioning.inference.backend_config import BackendConfig
from captioning.messages import check_minimum
from captioning.sources.given_names import is_url, resolve_name
from captioning.sources.image_names import is_archive


@dataclass(frozen=True)
class CaptionConfig(OutputConfig):
    """Caption images and folders of images."""

    SECTIONS: ClassVar = {
        "paths": "input",
        "output": "output",
        "prefix": "output",
        "model": "model",
        "search": "search",
        "batch_size": "speed",
        "engine": "Ray cluster",
    }

    paths: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="PATH ...", help_behavior_hint=""),
    ] = ()
    """Files, folders, quoted glob patterns, archives, URLs, and with --engine ray also Parquet
    tables; - reads paths, or one image, from standard input."""
    recursive: Annotated[bool, tyro.conf.arg(aliases=["-r"])] = False
    """Include the images in subfolders."""
    exclude: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(metavar="PATTERN", help_behavior_hint="(repeatable)"),
    ] = ()
    """Exclude files and folders by a pattern, as in .gitignore: '*.png', raw/ or 2024/party."""
    follow_links: bool = False
    """Follow symbolic links that lead out of a folder, and links to folders."""
    limit: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: all)")
    ] = None
    """Caption at most this many images (1 or more)."""
    partition: Annotated[
        str | None, tyro.conf.arg(metavar="I/N", help_behavior_hint="(default: all)")
    ] = None
    """Caption one of N parts of the images: every N-th image, from image I on. `captioning merge`
    merges the results of all N parts."""
    allow_truncated: bool = False
    """Caption the readable part of truncated image files."""

    overwrite: bool = False
    """Caption all images again, and replace an existing output."""
    prefix: str = ""
    """Text before each caption. No space is added."""
    suffix: str = ""
    """Text after each caption. No space is added."""
    dry_run: bool = False
    """Print what would be captioned, and do nothing."""
    json: bool = False
    """Print a JSON summary at the end: on standard output, or on standard error if the captions go
    to standard output."""

    model: Annotated[
        str | None,
        tyro.conf.arg(metavar="MODEL", help_behavior_hint="(default: the packaged model)"),
    ] = None
    """Model directory, or id on the Hugging Face Hub."""
    device: str = "auto"
    """Device: auto (CUDA, then MPS, then the CPU), cpu, cuda, cuda:1, or mps."""
    backend: Annotated[BackendConfig, tyro.conf.OmitArgPrefixes, tyro.conf.arg(name="")] = field(
        default_factory=BackendConfig
    )
    consensus: Annotated[ConsensusFlags, tyro.conf.OmitArgPrefixes, tyro.conf.arg(name="")] = field(
        default_factory=ConsensusFlags
    )

    search: Annotated[SearchFlags, tyro.conf.OmitArgPrefixes, tyro.conf.arg(name="")] = field(
        default_factory=SearchFlags
    )
    seed: int = 0
    """Random seed of sampling (0 to 2**63 - 1)."""

    batch_size: int = 64
    """Number of images per batch (1 or more); halved if the device runs out of memory."""
    workers: int = 2
    """Number of processes that read image files (0: read in the main process)."""
    time_limit: float = 60.0
    """Time limit for reading one image, in seconds (above 0, at most 1,000,000). No effect
    with --workers 0."""

    engine: Literal["local", "ray"] = "local"
    """local: caption on this machine. ray: caption on a Ray cluster; -o is then a folder or a URL
    such as s3://bucket/captions, --format is parquet (the default) or jsonl, and --precision auto
    is float32. The options below need --engine ray."""
    cluster: Annotated[ClusterConfig, tyro.conf.OmitArgPrefixes, tyro.conf.arg(name="")] = field(
        default_factory=ClusterConfig
    )

    @property
    def format_name(self) -> str:
        """The output format; see :class:`OutputConfig`."""
        if self.engine == "local":
            return super().format_name
        return "parquet" if self.format == "auto" else self.format

    @property
    def share(self) -> Partition | None:
        """The partition to caption; None for all images.

        Raises:
            ConfigError: --partition is not of the form I/N.
        """
        return None if self.partition is None else Partition.parse(self.partition)

    def is_output(self, name: str) -> bool:
        """Return whether a file name is that of an output of this command."""
        if self.per_image:
            return name.lower().endswith(f".{self.format_name}")
        # The journal is hidden; failed images and unfinished files have longer names.
        return self.output is not None and name.removeprefix(".").startswith(self.output.name)


def check_config(config: CaptionConfig) -> None:
    """Check the flags, alone and in combination.

    Raises:
        ConfigError: A value is out of range, or two flags cannot be used together.
    """
    check_minimum(config, batch_size=1, workers=0)
    _check_engine(config)
    if config.limit is not None:
        check_minimum(config, limit=1)
    _check_order(config)
    config.check_output()
    if not 0 <= config.seed < 2**63:
        raise ConfigError(f"seed is {config.seed}; it must be between 0 and 2**63 - 1.")
    if config.dry_run and config.json:
        raise ConfigError("--dry-run and --json exclude each other. Give only one of them.")
    _ = config.share  # raises if --partition is wrong
    _check_images_are_files(config)
    _check_output_is_no_input(config)


def _check_engine(config: CaptionConfig) -> None:
    """Refuse flags that belong to the other engine."""
    if config.engine == "local":
        if config.cluster != ClusterConfig():
            default = ClusterConfig()
            given = (k for k, v in vars(config.cluster).items() if v != getattr(default, k))
            raise ConfigError(f"--{next(given).replace('_', '-')} needs --engine ray. Add it.")
        return
    if config.format_name not in ("parquet", "jsonl"):
        raise ConfigError(
            f"--engine ray writes parquet or jsonl, not {config.format}. Use --format jsonl, and "
            "convert its files with captioning convert."
        )
    if config.output is None or config.output.suffix.lower() in FORMAT_BY_SUFFIX:
        raise ConfigError(
            "--engine ray writes a folder with one file per partition. Name it with -o, for "
            "example -o captions; --format chooses parquet or jsonl."
        )
    refused = {"--partition": config.partition, "--consensus-data": config.consensus.consensus_data}
    for flag, value in refused.items():
        if value:
            raise ConfigError(f"{flag} cannot be used with --engine ray. Remove one of them.")


def _check_output_is_no_input(config: CaptionConfig) -> None:
    """Refuse to replace a list or an archive of images, and to copy images onto themselves."""
    output = config.output
    if output is None or (config.per_image and config.format_name != "embed"):
        return
    if any(_is_same_file(name, output) for name in config.paths):
        advice = "Leave -o out to write into the images" if config.per_image else "Use another -o"
        raise ConfigError(f"-o {output} is also an input. {advice}.")


def _is_same_file(name: str, output: Path) -> bool:
    with suppress(OSError, ValueError, AttributeError):  # missing, or standard input is closed
        status = os.fstat(sys.stdin.fileno()) if name == "-" else os.stat(name)  # noqa: PTH116
        return os.path.samestat(status, output.stat()) and not is_special_file(output)
    return False


def describe_unused_flags(config: CaptionConfig, *, is_random: bool) -> list[str]:
    """Return a sentence for each flag that has no effect together with the others.

    Args:
        config: The flags.
        is_random: Whether the search is random.
    """
    default = CaptionConfig()
    to_stdout = config.output is None and not config.per_image
    unused = {
        "--seed": (config.seed != default.seed and not is_random, "without --search sampling"),
        "--time-limit": (
            config.time_limit != default.time_limit and not config.workers,
            "with --workers 0",
        ),
        "--overwrite": (config.overwrite and to_stdout, "on standard output"),
    }
    return [
        f"{flag} has no effect {reason}."
        for flag, (is_unused, reason) in unused.items()
        if is_unused
    ]


def _check_order(config: CaptionConfig) -> None:
    """Refuse a command whose images were read as the values of a flag before them."""
    given = config.search.given()
    lists = {
        "--consensus-data": config.consensus.consensus_data,
        "--keep-columns": config.cluster.keep_columns,
        "--skip-rows-of": config.cluster.skip_rows_of,
        "--required-words": given.get("required_words"),
        "--forbidden-words": given.get("forbidden_words"),
    }
    for flag, values in lists.items():
        if values and not config.paths:
            raise ConfigError(
                f"no images given: everything after {flag} belongs to this flag. Name the images "
                f"first: captioning caption IMAGES {flag} {values[0]}"
            )


def _check_images_are_files(config: CaptionConfig) -> None:
    """Refuse outputs next to, or inside, images that are not files."""
    paths = paths_without_files(config)
    if not paths or not config.per_image:
        return
    if config.format_name == "embed":
        raise ConfigError(
            f"cannot embed captions in the images of {paths[0]}: they are not files. Unpack or "
            "download the images first, or choose another --format, such as jsonl."
        )
    if config.output is None:
        raise ConfigError(
            f"cannot write {config.format_name} files next to the images of {paths[0]}: the "
            "images are not files. Use a folder with -o."
        )


def paths_without_files(config: CaptionConfig) -> list[str]:
    """Return the inputs whose images are not files: archives and URLs."""
    return [
        name
        for name in config.paths
        if is_url(name) or (is_archive(name) and not os.path.isdir(resolve_name(name)))  # noqa: PTH112
    ]
