"""Formats with one record per image: JSON lines, CSV, COCO results, Parquet and plain text."""

import csv
import json
import re
from pathlib import Path
from typing import Any

from captioning.bulk.writers.base import CaptionRow
from captioning.bulk.writers.files import FileWriter
from captioning.errors import ConfigError
from captioning.messages import escape_unprintable

COLUMNS = ("file_name", "text", "image", "caption", "log_prob", "error")
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "'")
_COCO_ID = re.compile(r"(?:COCO_\w+_)?([0-9]{1,12})", re.ASCII)
_GROUP_ROWS = 10_000  # of Parquet, in memory until they are written


class JsonLinesWriter(FileWriter):
    """Writes JSON lines that Hugging Face's ``imagefolder`` and our own training read.

    ``imagefolder`` reads ``file_name`` and ``text`` of a ``metadata.jsonl``; ``captioning train
    --data jsonl:`` reads ``image`` and ``caption``.
    """

    is_document = False

    def _write_row(self, row: CaptionRow) -> None:
        # Escape all special line breaks: some programs split lines at U+2028 and similar.
        plain = row.image.isprintable() and row.error.isprintable()
        self.file.write(json.dumps(_row_to_json(row), ensure_ascii=not plain) + "\n")


def _row_to_json(row: CaptionRow) -> dict[str, Any]:
    """Return a row as a JSON object; lists of captions only if there is more than one."""
    record: dict[str, Any] = {"file_name": row.file_name, "image": row.image}
    if not row.ok:
        return {**record, "error": row.error}
    best = row.captions[0]
    record |= {"text": best, "caption": best, "log_prob": row.log_probs[0]}
    if len(row.captions) > 1:
        record |= {"captions": list(row.captions), "log_probs": list(row.log_probs)}
    return record


class CsvWriter(FileWriter):
    r"""Writes a table of the best captions that spreadsheets open without running formulas.

    Rows end in ``\r\n``, so file names with either character are quoted.
    """

    def _write_start(self) -> None:
        self._table = csv.DictWriter(self.file, COLUMNS, extrasaction="ignore")
        self._table.writeheader()

    def _write_row(self, row: CaptionRow) -> None:
        record = _row_to_json(row)
        log_prob = record.pop("log_prob", None)
        cells = {name: escape_cell(cell) for name, cell in record.items() if isinstance(cell, str)}
        self._table.writerow({**cells, "log_prob": "" if log_prob is None else f"{log_prob:.3f}"})


def escape_cell(cell: str) -> str:
    """Put a quote before text that a spreadsheet would run as a formula.

    Text that begins with a quote gets another one, so different texts stay different.
    """
    return f"'{cell}" if cell.startswith(_FORMULA_STARTS) else cell


def unescape_cell(cell: str) -> str:
    """Undo :func:`escape_cell`."""
    return cell.removeprefix("'")


class CocoWriter(FileWriter):
    """Writes ``[{"image_id": 42, "caption": "...", "file_name": "photos/42.jpg"}, ...]``.

    The id is the number that makes up the file name (``42.jpg``), or that ends a COCO file name
    (``COCO_val2014_000000000042.jpg``). Images without such a number, or with one that an earlier
    image has, get ids above :data:`FIRST_OTHER_ID`. Numbers in other names are not ids: file names
    of Flickr end in hashes. Images that failed are left out.
    """

    FIRST_OTHER_ID = 10**12

    def _write_start(self) -> None:
        self._used_ids: set[int] = set()
        self._other_ids = 0
        self.file.write("[")

    def _write_row(self, row: CaptionRow) -> None:
        if row.ok:
            separator = ",\n" if self._used_ids else "\n"
            record = {"image_id": self._next_id(row.image), "caption": row.captions[0]}
            self.file.write(separator + json.dumps({**record, "file_name": row.image}))

    def _next_id(self, image: str) -> int:
        match = _COCO_ID.fullmatch(Path(image).stem)
        image_id = int(match[1]) if match else None
        if image_id is None or image_id in self._used_ids:
            self._other_ids += 1
            image_id = self.FIRST_OTHER_ID + self._other_ids
        self._used_ids.add(image_id)
        return image_id

    def _write_end(self) -> None:
        self.file.write("\n]\n" if self._used_ids else "]\n")


class ParquetWriter(FileWriter):
    """Writes the columns of the CSV table and two lists, ``captions`` and ``log_probs``.

    Raises:
        ConfigError: pyarrow is not installed.
    """

    binary = True

    def __init__(self, output: Path | None) -> None:
        self._pyarrow = import_pyarrow()  # before the output is opened
        super().__init__(output)

    def _write_start(self) -> None:
        text, number = self._pyarrow.string(), self._pyarrow.float64()
        types = dict.fromkeys(COLUMNS, text) | {"log_prob": number}
        types |= {"captions": self._pyarrow.list_(text), "log_probs": self._pyarrow.list_(number)}
        self._schema = self._pyarrow.schema(types)
        self._table = self._pyarrow.parquet.ParquetWriter(self.file, self._schema)
        self._rows: list[dict[str, Any]] = []

    def _write_row(self, row: CaptionRow) -> None:
        self._rows.append({name: _to_utf8(value) for name, value in _row_to_json(row).items()})
        if len(self._rows) == _GROUP_ROWS:
            self._write_group()

    def _write_group(self) -> None:
        if self._rows:
            self._table.write_table(self._pyarrow.Table.from_pylist(self._rows, self._schema))
            self._rows = []

    def _write_end(self) -> None:
        self._write_group()
        self._table.close()

    def abandon(self) -> None:
        """Close the file; see :meth:`FileWriter.abandon`."""
        self._table.is_open = False  # otherwise its finalizer writes to the closed file
        super().abandon()


def import_pyarrow() -> Any:
    """Return the pyarrow package with its Parquet module.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(
            "The Parquet format needs pyarrow. Run `pip install pyarrow`, or choose another format."
        ) from None
    return pyarrow


def _to_utf8(value: Any) -> Any:
    """Escape the bytes of a file name that are not UTF-8; Parquet stores only UTF-8."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


class TextWriter(FileWriter):
    """Writes ``path: caption`` per image for a terminal, further captions indented below it."""

    is_document = False
    terminal_encoding = True

    def _write_row(self, row: CaptionRow) -> None:
        if not row.ok:
            self.file.write(f"({escape_unprintable(row.error)})\n")
            return
        self.file.write(f"{escape_unprintable(row.image)}: {escape_unprintable(row.captions[0])}\n")
        for caption in row.captions[1:]:
            self.file.write(f"    {escape_unprintable(caption)}\n")
