"""Writing the rows of finished runs to another format."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from captioning.bulk.journal import file_stamp
from captioning.bulk.rows import Existing, fail_row, keeps_output, write_row
from captioning.bulk.writers.base import CaptionRow, Writer
from captioning.bulk.writers.files import part_path, refuse_non_output
from captioning.bulk.writers.registry import open_writer
from captioning.errors import ConfigError
from captioning.files import resolve_link


def check_new_output(output: Path | None, inputs: Iterable[Path], *, overwrite: bool) -> None:
    """Check that an output does not replace an input, an image, or an older output unasked.

    Raises:
        ConfigError: It would.
    """
    if output is None:
        return
    if output.resolve() in {path.resolve() for path in inputs}:
        raise ConfigError(f"-o {output} is also an input. Give another -o.")
    refuse_non_output(output)
    if output.is_file() and not overwrite:
        raise ConfigError(f"{output} exists. Give --overwrite to replace it, or another -o.")


def write_rows(rows: Iterable[CaptionRow], format_name: str, output: Path | None) -> int:
    """Write rows to one file, completely or not at all, and return their number.

    Args:
        rows: The rows, with file names relative to ``output``.
        format_name: Format of the output.
        output: Path of the output; None for standard output.

    Raises:
        OutputError: The rows cannot be read or written.
    """
    paths = [] if output is None else [resolve_link(output), part_path(resolve_link(output))]
    new_paths = [path for path in paths if not path.exists()]
    count = 0
    try:
        with open_writer(format_name, output) as writer:
            for row in rows:
                writer.write(row)
                count += 1
    except BaseException:
        for path in new_paths:  # a part of the rows could be mistaken for all of them
            with suppress(OSError):
                path.unlink()
        raise
    return count


def write_image_outputs(
    rows: Iterable[CaptionRow], writer: Writer, existing: Existing, *, beyond_files: bool
) -> Iterator[CaptionRow | None]:
    """Write each row to the output of its image.

    Args:
        rows: The rows; ``image`` is the path of the image from the working directory.
        writer: Writer of one output per image.
        existing: What happens to captions that exist already.
        beyond_files: Accept images behind URLs and in archives, which have no place next to them.

    Yields:
        The row, with an error if it has no output; None if an existing caption is kept.
    """
    for row in rows:
        if error := "" if row.error else _find_obstacle(row.image, beyond_files):
            yield fail_row(row, error)
        elif row.ok and keeps_output(writer, row.image, existing):
            yield None
        else:
            yield write_row(writer, row, existing)


def _find_obstacle(image: str, beyond_files: bool) -> str:
    """Return the reason why an image cannot have an output; empty if it can."""
    in_archive = file_stamp(image) and not Path(image).exists()
    if "://" in image or in_archive:
        advice = "Give a folder with -o, and a --format other than embed."
        return "" if beyond_files else f"cannot write to '{image}': it is not a file. {advice}"
    return "" if Path(image).is_file() else f"cannot find '{image}'. Move the image back."
