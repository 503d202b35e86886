"""Convert captions from one file format to another.

The input is a file that `captioning caption`, `merge` or `convert` has written: JSON lines, CSV,
COCO results or Parquet. CSV and COCO results hold only the best caption of each image, and COCO
results neither log-probabilities nor failed images. An HTML page links to the images.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from captioning.bulk.convert import check_new_output, names_for, write_rows
from captioning.bulk.readers import READERS, read_rows
from captioning.bulk.writers.registry import FORMAT_BY_SUFFIX
from captioning.cli.caption_config import OutputFile, format_of_file
from captioning.cli.progress import stderr_console
from captioning.errors import ConfigError
from captioning.files import resolve_link
from captioning.messages import format_count


@dataclass(frozen=True)
class ConvertConfig:
    """Convert captions from one file format to another."""

    input: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """File of captions: .jsonl, .csv, .json (COCO results) or .parquet."""
    output: OutputFile = None
    """Output file; file names in it are relative to its folder."""
    format: Literal["auto", "text", "jsonl", "csv", "coco", "parquet", "html"] = "auto"
    """Output format; auto uses the file extension of -o, and jsonl for standard output."""
    overwrite: bool = False
    """Replace an existing output file."""


def run(config: ConvertConfig) -> int:
    """Convert the file and return the exit code."""
    input_format, output_format = _input_format(config.input), _output_format(config)
    if not config.input.is_file():
        raise ConfigError(f"{config.input} is not a file. Check the path.")
    check_new_output(config.output, [config.input], overwrite=config.overwrite)
    rows = read_rows(resolve_link(config.input), input_format, names_for(config.output))
    count = write_rows(rows, output_format, config.output)
    if config.output is not None:
        stderr_console().print(f"Converted {format_count(count, 'row')} to {config.output}.")
    return 0


def _input_format(path: Path) -> str:
    format_name = FORMAT_BY_SUFFIX.get(path.suffix.lower(), path.suffix.lower())
    if format_name == "html":
        raise ConfigError(
            f"cannot convert {path}: an HTML page does not hold the paths of its images. Caption "
            "the images again with -o captions.jsonl."
        )
    if format_name not in READERS:
        readable = [suffix for suffix, name in FORMAT_BY_SUFFIX.items() if name in READERS]
        raise ConfigError(
            f"cannot convert {path}: its file extension is not one of {', '.join(readable)}. "
            "Rename the file according to its format."
        )
    return format_name


def _output_format(config: ConvertConfig) -> str:
    if config.format != "auto":
        return config.format
    return "jsonl" if config.output is None else format_of_file(config.output)
