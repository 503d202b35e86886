"""Results as rows of named values, and back."""

import csv
import io
import json
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from captioning.errors import OutputError
from captioning.inference.results import Caption, CaptionResult

COLUMNS = ("file_name", "text", "image", "caption", "log_prob", "error")
"""Of a table: as in a row of JSON lines, without the further captions."""


class Home:
    """The folder in which an output lies, and from which it names the images.

    Args:
        path: The folder; None where there is none: names are as they were given.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._folder: str | None = None
        self._way = ""

    def name_of(self, result: CaptionResult) -> str:
        """Return the way to an image."""
        if self.path is None or "://" in result.source:
            return result.source
        folder, name = os.path.split(result.place or result.source)
        if folder != self._folder:  # the way is slow to find, and mostly that of the last one
            self._folder, self._way = folder, self._way_to(self.path, folder)
        return os.path.normpath(os.path.join(self._way, name))  # noqa: PTH118

    @staticmethod
    def _way_to(home: Path, folder: str) -> str:
        try:
            # Of both as they are: ".." in a folder behind a link leads elsewhere.
            return os.path.relpath(os.path.realpath(folder or "."), os.path.realpath(home))
        except ValueError:  # another drive
            return folder


def row_of(result: CaptionResult, home: Home) -> dict[str, Any]:
    """Return a row of JSON lines.

    ``file_name``, the way from the output's folder, and ``text`` are what Hugging Face's
    ``imagefolder`` reads from a ``metadata.jsonl``; ``image``, as it was given, and ``caption`` are
    what ``captioning train --data jsonl:`` reads.

    Args:
        result: What became of an image.
        home: The output's folder.
    """
    row: dict[str, Any] = {"file_name": home.name_of(result), "image": result.source}
    if not result.ok:
        return {**row, "error": result.error}
    best = result.captions[0]
    row |= {"text": best.text, "caption": best.text, "log_prob": _rounded(best.log_prob)}
    if len(result.captions) > 1:
        row["captions"] = [each.text for each in result.captions]
        row["log_probs"] = [_rounded(each.log_prob) for each in result.captions]
    return row


def _rounded(log_prob: float) -> float | None:
    """JSON knows no infinity."""
    return round(log_prob, 3) if math.isfinite(log_prob) else None


def as_json(row: dict[str, Any]) -> str:
    """Return a row as one line of valid JSON, whatever bytes are in its names.

    Line breaks of all kinds are escaped, those too that only some programs take for one.
    """
    plain = row["image"].isprintable() and row.get("error", "").isprintable()
    return json.dumps(row, ensure_ascii=not plain) + "\n"


def as_csv(row: dict[str, Any]) -> str:
    """Return a row as a line of a table that a spreadsheet reads without running anything in it."""
    buffer = io.StringIO(newline="")
    cells = [_cell(row.get(column, "")) for column in COLUMNS]
    csv.writer(buffer).writerow(cells)  # \r\n ends a row, so a name with either is quoted
    return buffer.getvalue()


def _cell(value: str | float | None) -> str:
    if isinstance(value, str):
        return _plain_cell(value)
    return "" if value is None else f"{value:.3f}"


def _plain_cell(cell: str) -> str:
    """Keep a spreadsheet from running a file's name as a formula.

    A name that begins with the quote itself gets one more, so that no two names become one.
    """
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "'")) else cell


def read_rows(path: Path) -> Iterator[CaptionResult]:
    """Yield the results that a file of JSON lines holds.

    Raises:
        OutputError: It cannot be read, or a line is no result; the message says which.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    row = json.loads(line)
                    yield replace(_result(row), place=_place(row, path.parent))
                except (ValueError, KeyError, TypeError) as error:
                    raise OutputError(
                        f"Line {number} of {path} is no result of captioning: {error}."
                    ) from error
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{path} cannot be read: {error}.") from error


def _place(row: dict[str, Any], folder: Path) -> str:
    """Return the way to an image that was given by one from the folder its run was started in.

    Of one that was given by its whole path, nothing: that holds wherever the rows have gone since.
    """
    if "file_name" not in row or os.path.isabs(row["image"]):  # noqa: PTH117
        return ""
    return os.path.join(folder, row["file_name"])  # noqa: PTH118


def _result(row: dict[str, Any]) -> CaptionResult:
    if "error" in row:
        return CaptionResult(row["image"], error=row["error"])
    texts = row.get("captions", [row["caption"]])
    log_probs = row.get("log_probs", [row["log_prob"]])
    captions = [
        Caption(text, tuple(text.split()), -math.inf if log_prob is None else log_prob, True, ())
        for text, log_prob in zip(texts, log_probs, strict=True)
    ]
    return CaptionResult(row["image"], tuple(captions))
