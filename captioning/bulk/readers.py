"""Readers of the formats that hold rows: JSON lines, CSV, COCO results and Parquet."""

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from captioning.bulk.rows import RelativeNames
from captioning.bulk.writers.base import CaptionRow
from captioning.bulk.writers.csv import unescape_cell
from captioning.bulk.writers.parquet import import_pyarrow
from captioning.errors import OutputError

_T = TypeVar("_T")


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

    A relative ``image`` was relative to the working directory of its run, which may be another
    one now. Such an image is found by ``file_name``, which is relative to the file of the row.

    Args:
        row: A row as it is in its file.
        folder: The folder of this file.
    """
    if not row.file_name or os.path.isabs(row.image) or "://" in row.image:  # noqa: PTH117
        return row.image
    return os.path.join(folder, row.file_name)  # noqa: PTH118


def _read_jsonl(path: Path) -> Iterator[CaptionRow]:
    """Yield the rows of JSON lines; names are those of the file."""
    with _explain_errors(path), path.open("rb") as file:
        for number, line in enumerate(file, 1):
            with _explain_errors(path, f"line {number}"):
                row = _parse_row(json.loads(line))
            yield row


def _read_csv(path: Path) -> Iterator[CaptionRow]:
    with _explain_errors(path), path.open(encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file, strict=True)
        for cells in table:
            with _explain_errors(path, f"line {table.line_num}"):
                row = _parse_csv_row(cells)
            yield row


def _read_coco(path: Path) -> Iterator[CaptionRow]:
    with _explain_errors(path):
        records = json.loads(path.read_bytes())
        if not isinstance(records, list):
            raise ValueError("it is not a list of results")
    for number, record in enumerate(records, 1):
        with _explain_errors(path, f"result {number}"):
            _require_mapping(record)
            row = CaptionRow(
                _get(record, "file_name", str), "", (_get(record, "caption", str),), (None,)
            )
        yield row


def _read_parquet(path: Path) -> Iterator[CaptionRow]:
    pyarrow = import_pyarrow()
    with _explain_errors(path, errors=(pyarrow.ArrowException,)), path.open("rb") as file:
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches():
            for record in batch.to_pylist():
                present = {name: value for name, value in record.items() if value is not None}
                yield _parse_row({"log_prob": None, **present})


READERS: dict[str, Callable[[Path], Iterator[CaptionRow]]] = {
    "jsonl": _read_jsonl,
    "csv": _read_csv,
    "coco": _read_coco,
    "parquet": _read_parquet,
}
"""Readers by format."""


@contextmanager
def _explain_errors(
    path: Path, place: str = "", errors: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Turn errors of a block into an OutputError that names the file and the place in it."""
    try:
        yield
    except OutputError:
        raise
    except (OSError, ValueError, csv.Error, *errors) as error:
        where = f"{place} of {path}" if place else str(path)
        raise OutputError(
            f"cannot read {where} as captions: {error}. Run its command again."
        ) from error


def _parse_row(record: Any) -> CaptionRow:
    """Return the row of a JSON object or a Parquet record.

    Raises:
        ValueError: A field is missing or has the wrong type.
    """
    _require_mapping(record)
    image = _get(record, "image", str)
    file_name = _get(record, "file_name", str) if "file_name" in record else ""
    if "error" in record:
        return CaptionRow(image, file_name, error=_get(record, "error", str))
    if "captions" not in record:
        captions, log_probs = [_get(record, "caption", str)], [record.get("log_prob")]
    else:
        captions, log_probs = _get(record, "captions", list), _get(record, "log_probs", list)
    if not captions or not all(isinstance(caption, str) for caption in captions):
        raise ValueError("'captions' is not a list of texts")
    if len(log_probs) != len(captions) or not all(map(_is_log_prob, log_probs)):
        raise ValueError("'log_probs' does not have a number for each caption")
    return CaptionRow(image, file_name, tuple(captions), tuple(log_probs))


def _parse_csv_row(cells: Mapping[str | None, Any]) -> CaptionRow:
    if None in cells or None in cells.values():
        raise ValueError("the number of cells differs from the number of columns")
    image, file_name = (unescape_cell(_get(cells, name, str)) for name in ("image", "file_name"))
    if error := unescape_cell(_get(cells, "error", str)):
        return CaptionRow(image, file_name, error=error)
    log_prob = _get(cells, "log_prob", str)
    caption = unescape_cell(_get(cells, "caption", str))
    return CaptionRow(image, file_name, (caption,), (float(log_prob) if log_prob else None,))


def _require_mapping(record: Any) -> None:
    if not isinstance(record, dict):
        raise ValueError("it is not an object with named fields")


def _get(record: Mapping[Any, Any], name: str, kind: type[_T]) -> _T:
    if name not in record:
        raise ValueError(f"{name!r} is missing")
    value = record[name]
    if not isinstance(value, kind):
        raise ValueError(f"{name!r} is not a {kind.__name__}")
    return value


def _is_log_prob(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
