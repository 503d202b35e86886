"""Merge the partitions of a run: the outputs of `captioning caption --partition 1/8` to `8/8`.

The rows come in the order in which one run without partitions would have written them. All
partitions must be complete, and their journals (the hidden files next to them) must exist. Exit
code: 1 if the command failed, 2 for wrong usage, such as an input file that does not exist.

For example:

    captioning merge part-*.jsonl -o all.jsonl
    captioning merge part-*.jsonl -o all.csv --overwrite
    captioning merge part-*.jsonl -o captions_results.json --best
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from captioning.bulk.convert import check_new_output, write_rows
from captioning.bulk.journal import journal_path, read_metadata
from captioning.bulk.partition import Partition, PartitionFile, merge_partitions
from captioning.bulk.rows import RelativeNames, keep_best
from captioning.bulk.writers.base import CaptionRow
from captioning.bulk.writers.failed_rows import is_failed_path
from captioning.bulk.writers.registry import FORMAT_BY_SUFFIX
from captioning.cli.caption_report import print_row_counts
from captioning.cli.output_config import OutputFile, report_unused_overwrite
from captioning.errors import ConfigError, OutputError
from captioning.files import resolve_link
from captioning.messages import format_count

_MAX_LISTED = 5


@dataclass(frozen=True)
class MergeConfig:
    """Merge the partitions of a run."""

    partitions: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="FILE ...", help_behavior_hint=""),
    ] = ()
    """JSON lines files of all partitions, in any order."""
    output: OutputFile = None
    """Output file (default: standard output)."""
    format: Literal["auto", "jsonl", "csv", "coco", "parquet"] = "auto"
    """Output format. ``auto``: from the file extension of -o; jsonl without -o."""
    best: bool = False
    """Keep only the best caption of each image. Needed for COCO results if an
    image has several captions."""
    overwrite: bool = False
    """Replace an existing output file."""


def run(config: MergeConfig) -> int:
    """Merge the partitions and return the exit code."""
    files = _sort_partitions(config.partitions)
    report_unused_overwrite(config.output, overwrite=config.overwrite)
    check_new_output(config.output, [file.path for file in files], overwrite=config.overwrite)
    format_name = _resolve_format(config)

    def read() -> Iterator[CaptionRow]:
        rows = merge_partitions(files, RelativeNames(config.output))
        return map(keep_best, rows) if config.best else rows

    counts = write_rows(read, format_name, config.output)
    merged = f"Merged {format_count(len(files), 'partition')}:"
    print_row_counts(merged, counts, format_name, config.output)
    return 0


def _resolve_format(config: MergeConfig) -> str:
    if config.format != "auto":
        return config.format
    suffix = "" if config.output is None else config.output.suffix.lower()
    format_name = FORMAT_BY_SUFFIX.get(suffix, "jsonl")
    if format_name == "html":
        raise ConfigError(
            f"cannot merge into the page '{config.output}': partitions have no thumbnails. Merge "
            "into a file that ends in .jsonl, .csv, .json or .parquet, and `captioning convert` it."
        )
    return format_name


def _sort_partitions(paths: Sequence[Path]) -> list[PartitionFile]:
    """Return the partitions in order.

    Raises:
        ConfigError: They are not all partitions of one run.
        OutputError: A partition is not complete.
    """
    paths = [path for path in paths if not is_failed_path(path)]  # part-*.jsonl matches these too
    if not paths:
        raise ConfigError("no partitions given. Example: captioning merge part-*.jsonl -o all.csv")
    found: dict[int, PartitionFile] = {}
    runs: dict[str, Path] = {}
    for path in map(resolve_link, paths):  # the journal is next to the file itself, not the link
        partition, metadata = _read_partition(path)
        if partition.number in found:
            other = found[partition.number].path
            raise ConfigError(
                f"'{other}' and '{path}' are both partition {partition}. Pass each partition once."
            )
        rows = metadata["finished"]  # the number of rows, written when the partition is complete
        found[partition.number] = PartitionFile(path, rows, metadata["folder"])
        settings = {**metadata["settings"], "partition": None}
        runs.setdefault(json.dumps([settings, metadata.get("inputs")], sort_keys=True), path)
    if len(runs) > 1:
        first, second = list(runs.values())[:2]
        raise ConfigError(
            f"{first} and {second} come from runs with different models, settings or inputs. Run "
            "the same captioning caption command for all partitions, except for --partition and -o."
        )
    missing = [f"{i}/{partition.count}" for i in range(1, partition.count + 1) if i not in found]
    if missing:
        others = len(missing) - _MAX_LISTED
        names = ", ".join(missing[:_MAX_LISTED]) + (f" and {others:,} others" if others > 0 else "")
        subject = f"partition {names} is" if len(missing) == 1 else f"partitions {names} are"
        raise ConfigError(f"{subject} missing. Pass all {partition.count:,} files.")
    return [found[number] for number in sorted(found)]


def _read_partition(path: Path) -> tuple[Partition, dict[str, Any]]:
    """Return which partition a file is, and the metadata of its run."""
    if not path.exists():
        raise ConfigError(f"cannot read '{path}': no such file. Check the path.")
    metadata = read_metadata(journal_path(path))
    partition = metadata.get("settings", {}).get("partition")
    if not partition:
        journal = journal_path(path).name
        raise ConfigError(
            f"'{path}' is not a partition: it has no journal of `captioning caption --partition`. "
            f"If it was copied, copy {journal} too. Otherwise, check the path."
        )
    with path.open("rb") as file:
        start = file.read(1)
    if start not in (b"", b"{"):  # a partition without images is empty
        raise ConfigError(
            f"'{path}' does not hold JSON lines. Run the command of each partition again with an "
            "-o that ends in .jsonl; `captioning merge` can write other formats."
        )
    if metadata.get("finished") is None:
        raise OutputError(f"'{path}' is not complete. Run its command again to resume it.")
    return Partition.parse(str(partition)), metadata
