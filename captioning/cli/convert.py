"""Convert captions from one file format to another.

The input is a file that `captioning caption`, `merge` or `convert` has written: JSON lines, CSV,
COCO results or Parquet. COCO results contain no log-probabilities and only one caption per image.
If an image of the input has several, --best is needed for them. An HTML page that this command
writes shows the original images by link, so keep them in place. For formats with one output per
image, images are located by file name, relative to the folder of the input. Exit code: 0 if every
row was converted, 1 if some rows failed (they are listed) or the command failed, 2 for wrong usage,
such as an input file that does not exist.

For example:

    captioning convert captions.jsonl -o captions.csv
    captioning convert captions.jsonl -o captions_results.json --best
    captioning convert captions.parquet --format jsonl
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from captioning.bulk.convert import (
    check_new_output,
    write_image_outputs,
    write_rows,
)
from captioning.bulk.journal import journal_path, read_metadata
from captioning.bulk.readers import READERS, read_rows
from captioning.bulk.rows import RelativeNames, keep_best
from captioning.bulk.writers.base import CaptionRow
from captioning.bulk.writers.registry import FORMAT_BY_SUFFIX, open_writer
from captioning.cli.caption_report import FailureList, print_row_counts, print_skipped
from captioning.cli.output_config import OutputConfig, report_unused_overwrite
from captioning.cli.progress import stderr_console
from captioning.errors import ConfigError, OutputError
from captioning.files import resolve_link
from captioning.messages import format_count


@dataclass(frozen=True)
class ConvertConfig(OutputConfig):
    """Convert captions from one file format to another."""

    input: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """File of captions: .jsonl, .csv, .parquet, or .json (COCO results with ``file_name``)."""


def run(config: ConvertConfig) -> int:
    """Convert the file and return the exit code."""
    config.check_output()
    input_format = _input_format(config.input)
    if not config.input.is_file():
        reason = "it is not a file" if config.input.exists() else "no such file"
        raise ConfigError(f"cannot read '{config.input}': {reason}. Check the path.")
    path = resolve_link(config.input)
    # Without an output to be relative to, names are paths from the working directory.
    names = RelativeNames(None if config.per_image else config.output)

    def read() -> Iterator[CaptionRow]:
        rows = read_rows(path, input_format, names, run_folder=_find_run_folder(path))
        return map(keep_best, rows) if config.best else rows

    if config.per_image:
        return _write_per_image(config, read())
    report_unused_overwrite(config.output, overwrite=config.overwrite)
    check_new_output(config.output, [path], overwrite=config.overwrite)
    counts = write_rows(read, config.format_name, config.output)
    print_row_counts("Converted", counts, config.format_name, config.output)
    return 0


def _find_run_folder(path: Path) -> str | None:
    """Return the folder in which a file was written, if its journal says so."""
    with suppress(OutputError):  # without a journal, names are relative to the file's own folder
        return read_metadata(journal_path(path)).get("folder")
    return None


def _write_per_image(config: ConvertConfig, rows: Iterable[CaptionRow]) -> int:
    """Write one output per image and return the exit code."""
    console, written, skipped = stderr_console(), 0, 0
    failures = FailureList(config.format_name, config.output)
    accept_non_files = config.output is not None and config.format_name != "embed"
    with open_writer(config.format_name, config.output, keep_time=config.keep_time) as writer:
        for row in write_image_outputs(
            rows, writer, config.existing, accept_non_files=accept_non_files
        ):
            skipped += row is None
            written += row is not None and row.ok
            failures.add([] if row is None else [row])
    print_skipped(console, skipped)
    failures.print(console, written + failures.count)
    console.print(f"Wrote the captions of {format_count(written, 'image')}.")
    return 1 if failures.count else 0


def _input_format(path: Path) -> str:
    format_name = FORMAT_BY_SUFFIX.get(path.suffix.lower(), "")
    if format_name == "html":
        raise ConfigError(
            f"cannot convert '{path}': captions cannot be read from an HTML page. Caption "
            "the images again with -o captions.jsonl."
        )
    if format_name not in READERS:
        readable = [suffix for suffix, name in FORMAT_BY_SUFFIX.items() if name in READERS]
        raise ConfigError(
            f"cannot convert '{path}': its file extension is not one of {', '.join(readable)}. "
            "Rename the file according to its format."
        )
    return format_name
