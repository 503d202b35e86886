"""Readers of the formats that hold rows: JSON lines, CSV, COCO results and Parquet."""

import csv
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from captioning.bulk.content import is_present
from captioning.bulk.rows import RelativeNames
from captioning.bulk.writers.base import CaptionRow
from captioning.bulk.writers.failed_rows import failed_path
from captioning.bulk.writers.tables import CSV_PAIR, import_pyarrow, unescape_bytes, unescape_cell
from captioning.errors import OutputError

_TEXT_COLUMN = re.compile(r"text(_[0-9]+)?")


def read_rows(
    path: Path, format_name: str, names: RelativeNames, *, run_folder: str | None = None
) -> Iterator[CaptionRow]:
    """Yield the rows of a file, and those of its failed images in their places.

    Args:
        path: A file that ``captioning caption``, ``merge`` or ``convert`` has written.
        format_name: One of :data:`READERS`.
        names: Makes names relative to the new output.
        run_folder: Folder in which the file was written, in case it has moved without its images.

    Raises:
        OutputError: The file cannot be read, or does not hold rows of this format.
        ConfigError: The format needs a package that is not installed.
    """
    for row in _add_failed_rows(path, READERS[format_name](path)):
        image = _image_path(row.file_name, os.path.dirname(path), run_folder)  # noqa: PTH120
        yield replace(row, image=image, file_name=names.name_of(image))


def _add_failed_rows(path: Path, rows: Iterator[CaptionRow]) -> Iterator[CaptionRow]:
    failed: Iterator[CaptionRow] = iter(())
    if failed_path(path).is_file():
        failed = _read_jsonl(failed_path(path))
    count, next_failed = 0, next(failed, None)
    for row in rows:
        while next_failed is not None and next_failed.index in (count, None):
            yield replace(next_failed, index=None)
            count, next_failed = count + 1, next(failed, None)
        yield row
        count += 1
    while next_failed is not None:
        yield replace(next_failed, index=None)
        next_failed = next(failed, None)


def _image_path(file_name: str, folder: str, run_folder: str | None) -> str:
    """Return the path of an image from the working directory.

    Args:
        file_name: Its path relative to the file that names it, or a URL.
        folder: The folder of this file.
        run_folder: The folder in which the file was written.
    """
    if "://" in file_name:
        return file_name
    path = os.path.join(folder, file_name)  # noqa: PTH118
    if "\\udc" in file_name and not is_present(path):
        path = os.path.join(folder, unescape_bytes(file_name))  # noqa: PTH118
    if run_folder is not None and not is_present(path):
        previous = _image_path(file_name, run_folder, None)
        return previous if is_present(previous) else path
    return path


@dataclass(frozen=True)
class _Record:
    """Fields of a row in JSON lines and Parquet; other fields are ignored."""

    file_name: str
    text: str | None = None
    log_prob: float | None = None
    captions: list[str] | None = None
    log_probs: list[float | None] | None = None
    error: str | None = None
    index: int | None = None

    def to_row(self) -> CaptionRow:
        """Return the row.

        Raises:
            ValueError: Captions and log-probabilities do not agree, or there are none.
        """
        if self.error:
            return CaptionRow("", self.file_name, error=self.error, index=self.index)
        captions, log_probs = self.captions, self.log_probs
        if captions is None and self.text is not None:
            captions, log_probs = [self.text], [self.log_prob]
        if not captions:
            raise ValueError("it has neither a text nor an error")
        if log_probs is None or len(log_probs) != len(captions):
            raise ValueError("the numbers of captions and of log_probs differ")
        return CaptionRow("", self.file_name, tuple(captions), tuple(log_probs))


@dataclass(frozen=True)
class _CocoRecord:
    """Fields of a COCO result; ``file_name`` is our addition to the format."""

    file_name: str
    caption: str


def _read_jsonl(path: Path) -> Iterator[CaptionRow]:
    with _explain_errors(path), path.open("rb") as file:
        for number, line in enumerate(file, 1):
            with _explain_errors(path, f"line {number} of "):
                row = msgspec.convert(json.loads(line), _Record).to_row()
            yield row


def _read_csv(path: Path) -> Iterator[CaptionRow]:
    with _explain_errors(path), path.open(encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file, strict=True)
        for cells in table:
            with _explain_errors(path, f"line {table.line_num} of "):
                row = _parse_cells(cells)
            yield row


def _parse_cells(cells: dict[Any, Any]) -> CaptionRow:
    if None in cells or None in cells.values():
        raise ValueError("the number of cells differs from the number of columns")
    if missing := [name for name in ("file_name", *CSV_PAIR) if name not in cells]:
        raise ValueError(f"there is no column {missing[0]!r}")
    captions: list[str] = []
    log_probs: list[float | None] = []
    for suffix in (name.removeprefix("text") for name in cells if _TEXT_COLUMN.fullmatch(name)):
        text, log_prob = cells[f"text{suffix}"], cells.get(f"log_prob{suffix}")
        if text or log_prob or not suffix:  # an image may have fewer captions than others
            captions.append(unescape_cell(text))
            log_probs.append(float(log_prob) if log_prob else None)
    return CaptionRow("", cells["file_name"], tuple(captions), tuple(log_probs))


def _read_coco(path: Path) -> Iterator[CaptionRow]:
    with _explain_errors(path):
        records = msgspec.convert(json.loads(path.read_bytes()), list[_CocoRecord])
    for record in records:
        yield CaptionRow("", record.file_name, (record.caption,), (None,))


def _read_parquet(path: Path) -> Iterator[CaptionRow]:
    pyarrow = import_pyarrow()
    with _explain_errors(path), path.open("rb") as file:
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches():
            for record in batch.to_pylist():
                yield msgspec.convert(record, _Record).to_row()


READERS: dict[str, Callable[[Path], Iterator[CaptionRow]]] = {
    "jsonl": _read_jsonl,
    "csv": _read_csv,
    "coco": _read_coco,
    "parquet": _read_parquet,
}
"""Readers by format."""


@contextmanager
def _explain_errors(path: Path, place: str = "") -> Iterator[None]:
    """Turn errors of a block into an OutputError that names the file and the place in it."""
    try:
        yield
    except OutputError:
        raise
    except Exception as error:  # json, csv, msgspec and pyarrow raise their own classes
        text, advice = str(error).rstrip("."), "Correct it, or write the file again."
        if missing := re.search(r"Object missing required field `(\w+)`", text):
            text = f"a row has no '{missing[1]}'"
        if missing := missing or re.search(r"there is no column '(\w+)'", text):
            advice = f"Add '{missing[1]}' to each row."
        reason = f"cannot read captions from {place}'{path}': {text}"
        raise OutputError(f"{reason}. {advice}") from error
