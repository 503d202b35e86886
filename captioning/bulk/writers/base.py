"""What all writers of results share: safe files, and errors that say what to do."""

import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from captioning.errors import ConfigError, OutputError
from captioning.files import is_special_file, resolve_link
from captioning.inference.results import CaptionResult

_ODD_NAMES = "backslashreplace"  # a file's name may be no UTF-8


class Writer:
    """Takes results one by one, in the order of the inputs.

    Used as a context manager: leaving it completes the output, also where a run is interrupted;
    after any other error, what there is of a document is kept as a ``.part``. Where a format is one
    document (CSV, COCO, HTML), the file appears whole, under its name, only then; JSON lines are
    written and flushed as they come.
    """

    for_each = False
    """Whether each image has a file of its own, which fails alone."""
    stopped = False
    """Whether the run was stopped before its end: then a longer output of old is kept."""

    def lacks(self, source: str) -> bool:
        """Whether something of an image is missing that no journal has."""
        return False

    def wants(self, source: str) -> bool:
        """Whether an image is to be captioned; asked of each, in order, before it is written."""
        return True

    def keep(self, result: CaptionResult) -> None:
        """Keep what of a result no journal has, its small image, before the journal has the rest.

        Raises:
            OutputError: It cannot be written.
        """
        try:
            self._keep(result)
        except OSError as error:
            raise self._failed(error) from error

    def write(self, result: CaptionResult) -> None:
        """Take one result.

        Raises:
            OutputError: It cannot be written: the disk is full, say.
        """
        try:
            self._write(result)
        except OSError as error:
            raise self._failed(error) from error

    def flush(self) -> None:
        """Let others see what was written so far.

        Raises:
            OutputError: It cannot be written.
        """
        try:
            self._flush()
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Complete the output.

        Raises:
            OutputError: It cannot be written.
        """

    def _flush(self) -> None:
        """Let others see what was written so far."""

    def _keep(self, result: CaptionResult) -> None:
        """Keep what of a result no journal has."""

    def _write(self, result: CaptionResult) -> None:
        raise NotImplementedError

    def _abandon(self) -> None:
        """Keep what was written of a document that cannot be completed, under another name."""

    def _failed(self, error: OSError) -> OSError:
        if isinstance(error, BrokenPipeError | OutputError):  # such as `head` had enough
            return error
        return OutputError(
            f"The results cannot be written: {error}. Make room, or give another -o."
        )

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or isinstance(error, KeyboardInterrupt):  # which keeps what there is
            self.stopped = self.stopped or error is not None
            self.close()
        else:
            self._abandon()


class FileWriter(Writer):
    """A writer of one file, or of standard output."""

    whole = True
    binary = False
    for_people = False
    """Whether standard output is read by a person, in the terminal's own encoding, not UTF-8."""

    def __init__(self, output: Path | None) -> None:
        self.output = output
        self._temporary: Path | None = None
        if output is None:
            if sys.stdout is None:
                raise OutputError("Standard output is closed. Give a file by -o.")
            self.file: IO[Any] = sys.stdout.buffer if self.binary else sys.stdout
            if isinstance(sys.stdout, io.TextIOWrapper):
                encoding = None if self.for_people else "utf-8"
                sys.stdout.reconfigure(encoding=encoding, errors=_ODD_NAMES)
            return
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            if output.is_dir():
                raise IsADirectoryError("it is a folder")
            self.file = self._opened(output)
        except OSError as error:
            raise OutputError(f"{output} cannot be written: {error}. Give another -o.") from error

    def _opened(self, output: Path) -> IO[Any]:
        if is_special_file(output):
            handle = os.open(output, os.O_WRONLY)
        else:
            path = self.output = resolve_link(output)
            if self.whole or path.exists():
                path = self._temporary = part_of(path)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        if self.binary:
            return os.fdopen(handle, "wb")
        return os.fdopen(handle, "w", encoding="utf-8", newline="", errors=_ODD_NAMES)

    def _flush(self) -> None:
        if not self.whole:
            self.file.flush()

    def close(self) -> None:
        """Complete the file and give it its name, or keep what there is as a ``.part``.

        Raises:
            OutputError: It cannot be written.
        """
        try:
            self._end()
            self.file.flush()
            if self.output is not None:
                if not is_special_file(self.output):
                    os.fsync(self.file.fileno())
                self.file.close()
            if self.output is not None and self._temporary is not None and not self._shorter():
                self._temporary.replace(self.output)
        except OSError as error:
            self._abandon()
            raise self._failed(error) from error

    def _shorter(self) -> bool:
        """Return whether the run was stopped before it had as much as an earlier one."""
        if not self.stopped or self.output is None or self._temporary is None:
            return False
        before = self.output.stat().st_size if self.output.exists() else 0
        return self._temporary.stat().st_size < before

    def _end(self) -> None:
        """Write what comes after the last result."""

    def _abandon(self) -> None:
        with suppress(OSError, ValueError):  # what could be written stays
            if self.output is not None:
                self.file.close()


def refuse_foreign(output: Path) -> None:
    """Refuse to write over one of the photos.

    Raises:
        ConfigError: The file is no list of captions.
    """
    head = b""
    if output.is_file():
        with output.open("rb") as file:
            head = file.read(512)
    if b"\0" in head and not head.startswith(b"PAR1"):
        raise ConfigError(
            f"-o {output} is one of the photos, or another file that is no list of captions, so "
            "it is left as it is. Give another -o."
        )


def part_of(output: Path) -> Path:
    """Return the name of a document while it is written, and where it could not be completed."""
    return output.with_name(f"{output.name}.part")
