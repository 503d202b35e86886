"""Writers of one file, or of standard output."""

import io
import os
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, ClassVar

from captioning.bulk.writers.base import CaptionRow, Writer
from captioning.errors import ConfigError, OutputError
from captioning.files import copy_attributes, is_special_file, resolve_link


class FileWriter(Writer):
    """Base class of writers of one file.

    A document (CSV, COCO, HTML, Parquet) is written to ``NAME.part`` and renamed when it is
    complete. Other formats are written in place as the rows come, but an older file of the same
    name is also replaced only at the end.

    Subclasses implement :meth:`_write_row` and, if needed, :meth:`_write_start` and
    :meth:`_write_end`.

    Args:
        output: Path of the file; None for standard output.
        captions: Largest number of captions per image.
        on_complete: Called with the complete file before it gets its name.

    Raises:
        OutputError: The file cannot be opened.
    """

    written_at_end: ClassVar[bool] = True
    """Whether the file gets its name only when it is complete."""
    holds_errors: ClassVar[bool] = True
    """Whether the format has rows for images that failed."""
    is_table: ClassVar[bool] = False
    """Whether data set loaders read this format and expect a caption in each row."""
    max_captions: ClassVar[int | None] = None
    """Number of captions per image that the format can hold; None for any number."""
    binary: ClassVar[bool] = False
    terminal_encoding: ClassVar[bool] = False
    """Whether standard output keeps the encoding of the terminal instead of UTF-8."""

    def __init__(
        self,
        output: Path | None,
        *,
        captions: int = 1,
        on_complete: Callable[[Path], None] = lambda path: None,
    ) -> None:
        self.output = output
        self.captions = captions
        self.on_complete = on_complete
        self.kept_existing = False
        """Whether :meth:`close` kept an existing file because the new one is shorter."""
        self._temporary: Path | None = None
        self._closed = False
        self.file = self._open_stdout() if output is None else self._open_file(output)
        self._write_start()

    def _open_stdout(self) -> Any:  # pytest replaces standard output
        if sys.stdout is None:
            raise OutputError("standard output is closed. Use a file with -o.")
        if isinstance(sys.stdout, io.TextIOWrapper):
            encoding = None if self.terminal_encoding else "utf-8"
            sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")
        return sys.stdout.buffer if self.binary else sys.stdout

    def _open_file(self, output: Path) -> IO[Any]:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            if output.is_dir():
                raise IsADirectoryError("it is a folder")
            if is_special_file(output):
                handle = os.open(output, os.O_WRONLY)
            else:
                path = self.output = resolve_link(output)
                if self.written_at_end or path.exists():
                    path = self._temporary = part_path(path)
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        except OSError as error:
            raise OutputError(f"cannot write '{output}': {error}. Use another -o.") from error
        if self.binary:
            return os.fdopen(handle, "wb")
        # File names may contain bytes that are not UTF-8.
        return os.fdopen(handle, "w", encoding="utf-8", newline="", errors="backslashreplace")

    def write(self, row: CaptionRow) -> None:
        """Write one row; see :meth:`Writer.write`."""
        if row.ok or self.holds_errors:
            with _explain_errors():
                self._write_row(row)

    def flush(self) -> None:
        """Flush the rows; a document is flushed only at its end."""
        with _explain_errors():
            if not self.written_at_end:
                self.file.flush()

    def close(self, *, keep_existing_if_longer: bool = False) -> None:
        """Complete the file and give it its name; see :meth:`Writer.close`."""
        if self._closed:
            return
        self._closed = True
        with _explain_errors():
            try:
                self._write_end()
                self.file.flush()
                if self.output is not None:
                    self._finish_file(self.output, keep_existing_if_longer)
            except OSError:
                self.abandon()
                raise

    def _finish_file(self, output: Path, keep_existing_if_longer: bool) -> None:
        if is_special_file(output):
            self.file.close()
            return
        os.fsync(self.file.fileno())
        self.file.close()
        self.on_complete(self._temporary or output)
        if (path := self._temporary) is not None:
            older_size = output.stat().st_size if output.exists() else 0
            self.kept_existing = keep_existing_if_longer and path.stat().st_size < older_size
            if not self.kept_existing:
                if output.exists():
                    copy_attributes(output, path)
                path.replace(output)

    def abandon(self) -> None:
        """Close the file; a partial document keeps its ``.part`` name."""
        self._closed = True
        with suppress(OSError, ValueError):  # the error that led here is reported instead
            if self.output is not None:
                self.file.close()

    def _write_start(self) -> None:
        """Write what precedes the first row."""

    @abstractmethod
    def _write_row(self, row: CaptionRow) -> None:
        """Write one row."""

    def _write_end(self) -> None:
        """Write what follows the last row."""


@contextmanager
def _explain_errors() -> Iterator[None]:
    try:
        yield
    except (BrokenPipeError, OutputError):  # `head` closes the pipe on purpose
        raise
    except OSError as error:
        reason = f"cannot write the results: {error}. Free some space, or use another -o."
        raise OutputError(reason) from error


def part_path(output: Path) -> Path:
    """Return the name that a document has until it is complete."""
    return output.with_name(f"{output.name}.part")


def refuse_binary_file(output: Path) -> None:
    """Refuse to overwrite a file that no writer has written, such as an image.

    Raises:
        ConfigError: The file is binary and not Parquet.
    """
    if not output.is_file():
        return
    with output.open("rb") as file:
        head = file.read(512)
    if b"\0" in head and not head.startswith(b"PAR1"):
        raise ConfigError(
            f"-o '{output}' is an image or another binary file. It is not overwritten. "
            "Use another -o."
        )
