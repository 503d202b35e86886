"""Readers of the formats that hold rows: JSON lines, CSV, COCO results and Parquet."""

import csv
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from captioning.bulk.rows import RelativeNames
from captioning.bulk.writers.base import CaptionRow
from captioning.bulk.writers.tables import COLUMNS, import_pyarrow, unescape_cell
from captioning.errors import OutputError


def read_rows(path: Path, format_name: str, names: RelativeNames) -> Iterator[CaptionRow]:
    """Yield the rows of a file, with file names relative to another output.

    Args:
        path: A file that ``captioning caption``, ``merge`` or ``convert`` has written.
        format_name: One of :data:`READERS`.
        names: Makes names relative to the new output.

    Raises:
        OutputError: The file cannot be read, or does not hold rows of this format.
        ConfigError: The format needs a package that is not installed.
    """
    for row in READERS[format_name](path):
        yield replace(row, file_name=names.name_of(image_path(row, path.parent)))


def image_path(row: CaptionRow, folder: Path) -> str:
    """Return the path of a row's image from the working directory.

    ``image`` is relative to the working directory of its run, which may be another one now.
    ``file_name`` is relative to the file of the row, which may have moved without its images.

    Args:
        row: A row as it is in its file.
        folder: The folder of this file.
    """
    if not row.file_name or "://" in row.image:
        return row.image
    path = os.path.join(folder, row.file_name)  # noqa: PTH118
    moved_alone = os.path.isabs(row.image) and not os.path.lexists(path)  # noqa: PTH117
    return row.image if moved_alone else path


@dataclass(frozen=True)
class _Record:
    """Fields of a row in JSON lines and Parquet; other fields are ignored."""

    image: str
    file_name: str | None = None
    caption: str | None = None
    log_prob: float | None = None
    captions: list[str] | None = None
    log_probs: list[float | None] | None = None
    error: str | None = None

    def to_row(self) -> CaptionRow:
        """Return the row.

        Raises:
            ValueError: Captions and log-probabilities do not agree, or there are none.
        """
        if self.error:
            return CaptionRow(self.image, self.file_name or "", error=self.error)
        captions, log_probs = self.captions, self.log_probs
        if captions is None and self.caption is not None:
            captions, log_probs = [self.caption], [self.log_prob]
        if not captions:
            raise ValueError("it has neither a caption nor an error")
        if log_probs is None or len(log_probs) != len(captions):
            raise ValueError("the numbers of captions and of log_probs differ")
        return CaptionRow(self.image, self.file_name or "", tuple(captions), tuple(log_probs))


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


def _parse_cells(cells: dict[str | None, Any]) -> CaptionRow:
    if None in cells or None in cells.values():
        raise ValueError("the number of cells differs from the number of columns")
    if missing := [name for name in COLUMNS if name not in cells]:
        raise ValueError(f"there is no column {missing[0]!r}")
    names = ("image", "file_name", "caption", "error")
    image, file_name, caption, error = (unescape_cell(cells[name]) for name in names)
    log_prob = float(cells["log_prob"]) if cells["log_prob"] else None
    return _Record(image, file_name, caption, log_prob, error=error).to_row()


def _read_coco(path: Path) -> Iterator[CaptionRow]:
    with _explain_errors(path):
        records = msgspec.convert(json.loads(path.read_bytes()), list[_CocoRecord])
    for record in records:
        yield CaptionRow(record.file_name, "", (record.caption,), (None,))


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
        reason = f"cannot read captions from {place}{path}: {error}"
        raise OutputError(f"{reason}. Create the file again.") from error
