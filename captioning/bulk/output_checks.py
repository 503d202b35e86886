"""Checks of outputs before any work begins: what makes every output fail is found at once."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from captioning.bulk.journal import journal_path
from captioning.bulk.rows import Existing, fail_if_unwritable, keeps_output
from captioning.bulk.thumbnails import thumbnail_folder
from captioning.bulk.writers.base import Writer
from captioning.bulk.writers.failed_rows import failed_path
from captioning.bulk.writers.files import part_path, refuse_binary_file
from captioning.bulk.writers.registry import open_writer, require_packages, writes_per_image
from captioning.errors import ConfigError, OutputError
from captioning.files import check_writable, find_write_obstacle, is_special_file, resolve_link
from captioning.images.image_ref import ImageRef

REPLACE_ADVICE = "Use --overwrite to replace it, or another -o."
_STREAMS = ("/dev/std", "/dev/fd/", "/proc/")  # not /dev/shm, which has ordinary files
_MAX_CHECKED = 100_000  # images in memory while the first writable output is searched for
_MAX_HELD = 256 << 20  # bytes of such images that come from archives


def check_output(
    format_name: str, output: Path | None, images: Iterator[ImageRef], existing: Existing
) -> Iterator[ImageRef]:
    """Check that a run can write its results, and return the images.

    Args:
        format_name: Output format.
        output: File or folder; None for standard output, or for the folder of each image.
        images: The images.
        existing: What happens to outputs that exist.

    Raises:
        ConfigError: The output exists and must not be replaced, or a package is not installed.
        OutputError: No result can be written.
    """
    require_packages(format_name)
    if writes_per_image(format_name):
        with open_writer(format_name, output) as writer:
            return _require_writable(writer, images, existing)
    if output is not None and not (is_stream(output) and output.exists()):
        check_output_file(output, overwrite=existing == "replace")
        if format_name == "html" and (reason := find_write_obstacle(thumbnail_folder(output))):
            folder = thumbnail_folder(output)
            raise OutputError(f"cannot write into '{folder}': {reason}. Use another -o.")
    return images


def is_stream(output: Path) -> bool:
    """Return whether an output is a pipe or a device, which is only written to."""
    return is_special_file(output) or str(output).startswith(_STREAMS)


def check_output_file(output: Path, *, overwrite: bool) -> None:
    """Check that a file and its journal can be written.

    Args:
        output: The file.
        overwrite: Start again, even if there is an output or a journal.

    Raises:
        ConfigError: The output exists without a journal, or was not written by this program.
        OutputError: It cannot be written.
    """
    output = resolve_link(output)
    journal = journal_path(output) if output.name else output
    longest = part_path(failed_path(output)) if output.name else output
    for path in (output, journal, longest):
        check_writable(path)
    refuse_binary_file(output)
    if output.exists() and not overwrite and not journal.exists():
        reason = (
            f"'{output}' already exists, and there is no journal ({journal.name}) to resume from."
        )
        advice = "If the output was copied, copy the journal too."
        raise ConfigError(f"{reason} {advice} {REPLACE_ADVICE}")


def _require_writable(
    writer: Writer, images: Iterator[ImageRef], existing: Existing
) -> Iterator[ImageRef]:
    """Return the images, after a check that an output can be written, or that all are kept.

    Raises:
        OutputError: Outputs are missing, and none can be written.
    """
    checked: list[ImageRef] = []
    held, obstacle = 0, ""
    for image in images:
        checked.append(image)
        held += len(image.content) if isinstance(image.content, bytes) else 0
        if image.error:
            continue
        found = fail_if_unwritable(writer, image).error
        if not found or len(checked) == _MAX_CHECKED or held > _MAX_HELD:
            return chain(checked, images)
        if not obstacle and not keeps_output(writer, image.name, existing):
            obstacle = found
    if obstacle:
        raise OutputError(f"no caption can be written: {obstacle}")
    return iter(checked)
