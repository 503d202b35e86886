"""The output formats by name."""

from collections.abc import Callable
from pathlib import Path

from captioning.bulk.writers.base import Writer
from captioning.bulk.writers.failed_rows import SplitWriter, failed_path
from captioning.bulk.writers.files import FileWriter
from captioning.bulk.writers.html import HtmlWriter
from captioning.bulk.writers.sidecars import SidecarWriter, TextFileWriter, XmpWriter
from captioning.bulk.writers.tables import (
    CocoWriter,
    CsvWriter,
    JsonLinesWriter,
    ParquetWriter,
    TextWriter,
    import_pyarrow,
)
from captioning.errors import ConfigError
from captioning.files import is_special_file, resolve_link
from captioning.messages import format_count, suggest

_FILE_WRITERS: dict[str, type[FileWriter]] = {
    "jsonl": JsonLinesWriter,
    "text": TextWriter,
    "csv": CsvWriter,
    "coco": CocoWriter,
    "parquet": ParquetWriter,
    "html": HtmlWriter,
}
_SIDECAR_WRITERS: dict[str, type[SidecarWriter]] = {
    "txt": TextFileWriter,
    "caption": TextFileWriter,
    "xmp": XmpWriter,
}
FORMATS = (*_FILE_WRITERS, *_SIDECAR_WRITERS, "embed")
"""Names of all formats. Those of :func:`writes_per_image` make one output per image."""
FORMAT_BY_SUFFIX = {
    ".jsonl": "jsonl",
    ".csv": "csv",
    ".html": "html",
    ".htm": "html",
    ".json": "coco",
    ".parquet": "parquet",
}


def writes_per_image(format_name: str) -> bool:
    """Return whether a format makes one output per image, so that ``-o`` is a folder."""
    return format_name in FORMATS and format_name not in _FILE_WRITERS


def require_packages(format_name: str) -> None:
    """Check that the packages of a format are installed.

    Raises:
        ConfigError: A package is missing.
    """
    if format_name == "parquet":
        import_pyarrow()


def holds_errors(format_name: str) -> bool:
    """Return whether a format has rows for failed images."""
    return format_name in _FILE_WRITERS and _FILE_WRITERS[format_name].holds_errors


def failure_list(format_name: str, output: Path | None) -> Path | None:
    """Return the file that lists the failed images; None for streams and outputs per image."""
    if format_name not in _FILE_WRITERS or output is None or is_special_file(output):
        return None
    is_table = _FILE_WRITERS[format_name].is_table
    return failed_path(resolve_link(output)) if is_table else output


def check_caption_count(format_name: str, captions: int) -> None:
    """Check that a format can hold this number of captions per image.

    Args:
        format_name: One of :data:`FORMATS`.
        captions: Largest number of captions of an image.

    Raises:
        ConfigError: It cannot.
    """
    writer = _FILE_WRITERS.get(format_name)
    limit = None if writer is None else writer.max_captions
    if limit is not None and captions > limit:
        raise ConfigError(
            f"the format {format_name} holds {format_count(limit, 'caption')} per image, but there "
            f"are {captions}. Add --best to keep the best one, or choose another format, such as "
            ".jsonl or .csv."
        )


def open_writer(
    format_name: str,
    output: Path | None,
    *,
    captions: int = 1,
    keep_time: bool = False,
    on_complete: Callable[[Path], None] = lambda path: None,
) -> Writer:
    """Open the writer of a format.

    Args:
        format_name: One of :data:`FORMATS`.
        output: A file, or a folder if the format makes one output per image. None stands for
            standard output, or for the folder of each image.
        captions: Largest number of captions per image, which decides the columns of tables.
        keep_time: Keep the modification time of images (format ``embed``).
        on_complete: Called with a complete file before it gets its name.

    Raises:
        ConfigError: The format does not exist, or needs a package that is not installed.
        OutputError: The output cannot be written.
    """
    if format_name == "embed":
        from captioning.bulk.writers.embed import EmbedWriter  # XML is slow to import

        return EmbedWriter(output, keep_time=keep_time)
    if format_name in _SIDECAR_WRITERS:
        return _SIDECAR_WRITERS[format_name](output, f".{format_name}")
    if format_name in _FILE_WRITERS:
        writer = _FILE_WRITERS[format_name](output, captions=captions, on_complete=on_complete)
        failed = failure_list(format_name, output) if writer.is_table else None
        return writer if failed is None else SplitWriter(writer, failed)
    raise ConfigError(
        f"unknown format {format_name!r}. Choose one of {', '.join(FORMATS)}."
        f"{suggest(format_name, FORMATS)}"
    )
