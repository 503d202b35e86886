"""Results in the formats that people use: written as they come, or whole at the end."""

import csv
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from captioning.captioner.page import HtmlPage
from captioning.captioner.results import CaptionedPicture
from captioning.errors import OutputError, SettingsError, nearest


class Writer:
    """Takes results one by one.

    Used as a context manager: leaving it completes the output. Where a format is one document
    (CSV, COCO, HTML), the file appears whole, under its name, only then; JSON lines are written and
    flushed as they come.
    """

    def write(self, result: CaptionedPicture) -> None:
        """Take one result."""
        raise NotImplementedError

    def close(self) -> None:
        """Complete the output."""

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # An interrupted run keeps what it has.
        self.close()


class _ToFile(Writer):
    """A writer of one file, or of standard output."""

    whole = True

    def __init__(self, output: Path | None) -> None:
        self.output = output
        self._temporary: Path | None = None
        self.file: IO[str] = sys.stdout
        if output is None:
            return
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            if self.whole:
                handle, name = tempfile.mkstemp(prefix=f".{output.name}-", dir=output.parent)
                self._temporary = Path(name)
                self.file = os.fdopen(handle, "w", encoding="utf-8", newline="", errors=_ODD_BYTES)
            else:
                self.file = output.open("w", encoding="utf-8", newline="", errors=_ODD_BYTES)
        except OSError as error:
            raise OutputError(f"{output} cannot be written: {error}. Give another -o.") from error

    def close(self) -> None:
        if self.output is None:
            self.file.flush()
            return
        self.file.close()
        if self._temporary is not None:
            self._temporary.chmod(0o644)
            self._temporary.replace(self.output)
            self._temporary = None


_ODD_BYTES = "surrogateescape"  # a file name that is no UTF-8 keeps its bytes


def _record(result: CaptionedPicture) -> dict[str, Any]:
    if not result.ok:
        return {"image": result.source, "error": result.error}
    best = result.captions[0]
    record = {
        "image": result.source,
        "caption": best.text,
        "log_prob": round(best.log_prob, 4),
    }
    if len(result.captions) > 1:
        record["captions"] = [
            {"caption": each.text, "log_prob": round(each.log_prob, 4)} for each in result.captions
        ]
    return record


class _JsonLines(_ToFile):
    whole = False

    def write(self, result: CaptionedPicture) -> None:
        # ASCII escapes keep file names with odd bytes or line breaks on one valid line.
        ascii_only = not _printable(result.source)
        self.file.write(json.dumps(_record(result), ensure_ascii=ascii_only) + "\n")
        self.file.flush()


def _printable(text: str) -> bool:
    return text.isprintable()


class _Text(_ToFile):
    """For a person at a terminal: the file's name and what it shows."""

    whole = False

    def write(self, result: CaptionedPicture) -> None:
        shown = result.text if result.ok else f"({result.error})"
        name = result.source if result.source.isprintable() else ascii(result.source)
        self.file.write(f"{name}: {shown}\n")
        for other in result.captions[1:]:
            self.file.write(f"    {other.text}\n")
        self.file.flush()


class _Csv(_ToFile):
    def __init__(self, output: Path | None) -> None:
        super().__init__(output)
        self.table = csv.writer(self.file)
        self.table.writerow(["image", "caption", "log_prob", "error"])

    def write(self, result: CaptionedPicture) -> None:
        log_prob = f"{result.captions[0].log_prob:.4f}" if result.captions else ""
        row = [result.source, result.text, log_prob, result.error]
        self.table.writerow([_plain_cell(cell) for cell in row])


def _plain_cell(cell: str) -> str:
    """Keep a spreadsheet from running a file's name as a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "@", "\t", "\r")) else cell


class _Coco(_ToFile):
    """COCO results: ``[{"image_id": 42, "caption": "..."}]``."""

    def __init__(self, output: Path | None) -> None:
        super().__init__(output)
        self.records: list[dict[str, Any]] = []
        self.used: set[int] = set()

    def write(self, result: CaptionedPicture) -> None:
        if result.ok:
            self.records.append({"image_id": self._id(result.source), "caption": result.text})

    def _id(self, source: str) -> int:
        """Return the number that ends the file's name, as COCO's do, or the next free one."""
        digits = re.search(r"(\d+)$", Path(source).stem)
        number = int(digits[1]) if digits else len(self.used) + 1
        while number in self.used:
            number += 1
        self.used.add(number)
        return number

    def close(self) -> None:
        self.file.write(json.dumps(self.records) + "\n")
        super().close()


class _Sidecars(Writer):
    """A small text file beside each picture, or in the folder that ``-o`` names."""

    def __init__(self, output: Path | None, ending: str) -> None:
        self.folder = output
        self.ending = ending
        if output is not None:
            try:
                output.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(
                    f"{output} cannot be a folder for the captions: {error}. Give another -o."
                ) from error

    def write(self, result: CaptionedPicture) -> None:
        if not result.ok:
            return
        picture = Path(result.source)
        path = (self.folder or picture.parent) / f"{picture.stem}{self.ending}"
        text = "".join(f"{caption.text}\n" for caption in result.captions)
        try:
            temporary = path.with_name(f".{path.name}-part")
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written: {error}. Name a folder of your own with -o."
            ) from error


class _Html(_ToFile):
    def __init__(self, output: Path | None) -> None:
        super().__init__(output)
        self.page = HtmlPage(self.file)

    def write(self, result: CaptionedPicture) -> None:
        self.page.add(result)

    def close(self) -> None:
        self.page.end()
        super().close()


_WRITERS: dict[str, Callable[[Path | None], Writer]] = {
    "jsonl": _JsonLines,
    "text": _Text,
    "csv": _Csv,
    "coco": _Coco,
    "html": _Html,
    "txt": lambda output: _Sidecars(output, ".txt"),
    "caption": lambda output: _Sidecars(output, ".caption"),
}
FORMATS = tuple(_WRITERS)
"""``jsonl``, ``text`` (for reading), ``csv``, ``coco``, ``html``, and the sidecars ``txt`` and
``caption``."""


def open_writer(form: str, output: Path | None) -> Writer:
    """Return the writer of a format.

    Args:
        form: One of :data:`FORMATS`.
        output: A file; for sidecars a folder; None for standard output, or for sidecars the folder
            of each picture.

    Raises:
        SettingsError: There is no such format.
        OutputError: The output cannot be written.
    """
    if form not in _WRITERS:
        raise SettingsError(
            f"There is no format {form!r}; there are {', '.join(FORMATS)}.{nearest(form, FORMATS)}"
        )
    return _WRITERS[form](output)
