"""Writing the rows of finished runs to another format."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from captioning.bulk.content import is_present
from captioning.bulk.rows import Existing, fail_row, keeps_output, write_row
from captioning.bulk.writers.base import CaptionRow, Writer
from captioning.bulk.writers.failed_rows import failed_path
from captioning.bulk.writers.files import part_path, refuse_binary_file
from captioning.bulk.writers.registry import check_caption_count, open_writer
from captioning.errors import ConfigError
from captioning.files import resolve_link


def check_new_output(output: Path | None, inputs: Iterable[Path], *, overwrite: bool) -> None:
    """Check that an output does not replace an input, an image, or, by default, an older output.

    Raises:
        ConfigError: It would.
    """
    if output is None:
        return
    if output.resolve() in {path.resolve() for path in inputs}:
        raise ConfigError(f"-o {output} is also an input. Use another -o.")
    refuse_binary_file(output)
    if output.is_file() and not overwrite:
        raise ConfigError(f"'{output}' exists. Use --overwrite to replace it, or another -o.")


@dataclass
class RowCounts:
    """Numbers of rows that were written."""

    captioned: int = 0
    failed: int = 0


def write_rows(
    read: Callable[[], Iterable[CaptionRow]], format_name: str, output: Path | None
) -> RowCounts:
    """Write rows to one file, completely or not at all.

    Args:
        read: Returns the rows, with file names relative to ``output``. It is called twice: the
            columns of a table depend on all rows.
        format_name: Format of the output.
        output: Path of the output; None for standard output.

    Raises:
        ConfigError: The format cannot hold as many captions per image.
        OutputError: The rows cannot be read or written.
    """
    captions = max((len(row.captions) for row in read()), default=1)
    check_caption_count(format_name, captions)
    new_paths = [path for path in _paths_of(output) if not path.exists()]
    counts = RowCounts()
    try:
        with open_writer(format_name, output, captions=captions) as writer:
            for row in read():
                writer.write(row)
                counts.captioned += row.ok
                counts.failed += not row.ok
    except BaseException:
        for path in new_paths:  # a part of the rows could be mistaken for all of them
            with suppress(OSError):
                path.unlink()
        raise
    return counts


def _paths_of(output: Path | None) -> list[Path]:
    """Return the files that a writer may leave."""
    if output is None:
        return []
    path = resolve_link(output)
    return [other for each in (path, failed_path(path)) for other in (each, part_path(each))]


def write_image_outputs(
    rows: Iterable[CaptionRow], writer: Writer, existing: Existing, *, accept_non_files: bool
) -> Iterator[CaptionRow | None]:
    """Write each row to the output of its image.

    Args:
        rows: The rows; ``image`` is the path of the image from the working directory.
        writer: Writer of one output per image.
        existing: What happens to captions that exist already.
        accept_non_files: Accept images behind URLs and in archives, which have no place next to
            them.

    Yields:
        The row, with an error if it has no output; None if an existing caption is kept.
    """
    for row in rows:
        if error := "" if row.error else _find_obstacle(row.image, accept_non_files):
            yield fail_row(row, error)
        elif row.ok and keeps_output(writer, row.image, existing):
            yield None
        else:
            yield write_row(writer, row, existing)


def _find_obstacle(image: str, accept_non_files: bool) -> str:
    """Return the reason why an image cannot have an output; empty if it can."""
    in_archive = is_present(image) and not os.path.lexists(image)
    if "://" in image or in_archive:
        advice = "Use a folder with -o, and a --format other than embed."
        return "" if accept_non_files else f"cannot write to '{image}': it is not a file. {advice}"
    return "" if Path(image).is_file() else f"cannot find '{image}'. Move the image back."
