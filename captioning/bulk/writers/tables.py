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

CSV_PAIR = ("text", "log_prob")
"""Columns of a caption in CSV; those of the second caption end in ``_2``, and so on."""
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "'")
_COCO_ID = re.compile(r"(?:COCO_\w+_)?([0-9]{1,12})", re.ASCII)
_GROUP_ROWS = 10_000  # of Parquet, in memory until they are written


class JsonLinesWriter(FileWriter):
    """Writes JSON lines that Hugging Face's ``imagefolder`` and our own training read.

    A key ``image`` would hide the image column of ``imagefolder``. All captioned rows have the same
    keys, because the column types are taken from the first rows.
    """

    written_at_end = False
    is_table = True

    def _write_row(self, row: CaptionRow) -> None:
        # Escape all special line breaks: some programs split lines at U+2028 and similar.
        plain = row.file_name.isprintable() and row.error.isprintable()
        record = row_to_json(row, lists=self.captions > 1)
        self.file.write(json.dumps(record, ensure_ascii=not plain) + "\n")


def row_to_json(row: CaptionRow, *, lists: bool) -> dict[str, Any]:
    """Return a row as a JSON object.

    Args:
        row: The row.
        lists: Add all captions to the best one.
    """
    name = escape_bytes(row.file_name)
    if not row.ok:
        index = {} if row.index is None else {"index": row.index}
        return {**index, "file_name": name, "error": escape_bytes(row.error)}
    record: dict[str, Any] = {
        "file_name": name,
        "text": row.captions[0],
        "log_prob": row.log_probs[0],
    }
    if lists:
        record |= {"captions": list(row.captions), "log_probs": list(row.log_probs)}
    return record


def escape_bytes(name: str) -> str:
    """Escape the bytes of a file name that are not UTF-8: readers of JSON and Parquet refuse them.

    :func:`unescape_bytes` is the inverse.
    """
    return name.encode("utf-8", "backslashreplace").decode()


def unescape_bytes(name: str) -> str:
    """Return the file name whose bytes were escaped."""
    return re.sub(r"\\udc([89a-f][0-9a-f])", lambda match: chr(0xDC00 + int(match[1], 16)), name)


class CsvWriter(FileWriter):
    r"""Writes a table that spreadsheets open without running formulas.

    The columns are ``file_name``, ``text`` and ``log_prob``, and ``text_2``, ``log_prob_2`` and so
    on for further captions. Rows end in ``\r\n``, so file names with either character are quoted.
    """

    is_table = True
    holds_errors = False

    def _write_start(self) -> None:
        self._table = csv.writer(self.file)
        others = [f"{name}_{i}" for i in range(2, self.captions + 1) for name in CSV_PAIR]
        self._table.writerow(["file_name", *CSV_PAIR, *others])

    def _write_row(self, row: CaptionRow) -> None:
        name = row.file_name  # an escaped name would not be found, but ./=1.jpg is the same file
        cells = [f"./{name}" if name.startswith(_FORMULA_STARTS) else name]
        for caption, log_prob in zip(row.captions, row.log_probs, strict=True):
            cells += [escape_cell(caption), "" if log_prob is None else f"{log_prob:.3f}"]
        empty = 1 + 2 * self.captions - len(cells)
        self._table.writerow(cells + [""] * empty)


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
    of Flickr end in hashes.
    """

    is_table = True
    holds_errors = False
    max_captions = 1
    FIRST_OTHER_ID = 10**12

    def _write_start(self) -> None:
        self._used_ids: set[int] = set()
        self._other_ids = 0
        self.file.write("[")

    def _write_row(self, row: CaptionRow) -> None:
        separator = ",\n" if self._used_ids else "\n"
        record = {"image_id": self._next_id(row.file_name), "caption": row.captions[0]}
        self.file.write(separator + json.dumps({**record, "file_name": row.file_name}))

    def _next_id(self, file_name: str) -> int:
        match = _COCO_ID.fullmatch(Path(file_name).stem)
        image_id = int(match[1]) if match else None
        if image_id is None or image_id in self._used_ids:
            self._other_ids += 1
            image_id = self.FIRST_OTHER_ID + self._other_ids
        self._used_ids.add(image_id)
        return image_id

    def _write_end(self) -> None:
        self.file.write("\n]\n" if self._used_ids else "]\n")


class ParquetWriter(FileWriter):
    """Writes the keys of JSON lines as columns.

    Raises:
        ConfigError: pyarrow is not installed.
    """

    binary = True
    is_table = True
    holds_errors = False

    def __init__(self, output: Path | None, **options: Any) -> None:
        self._pyarrow = import_pyarrow()  # before the output is opened
        super().__init__(output, **options)

    def _write_start(self) -> None:
        text, number = self._pyarrow.string(), self._pyarrow.float64()
        types = {"file_name": text, "text": text, "log_prob": number}
        if self.captions > 1:
            lists = self._pyarrow.list_(text), self._pyarrow.list_(number)
            types |= {"captions": lists[0], "log_probs": lists[1]}
        self._schema = self._pyarrow.schema(types)
        self._table = self._pyarrow.parquet.ParquetWriter(self.file, self._schema)
        self._rows: list[dict[str, Any]] = []

    def _write_row(self, row: CaptionRow) -> None:
        self._rows.append(row_to_json(row, lists=self.captions > 1))
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
            "the Parquet format needs pyarrow. Run `pip install pyarrow`, or choose another format."
        ) from None
    return pyarrow


class TextWriter(FileWriter):
    """Writes ``path: caption`` per image for a terminal, further captions indented below it."""

    written_at_end = False
    terminal_encoding = True

    def _write_row(self, row: CaptionRow) -> None:
        if not row.ok:
            self.file.write(f"({escape_unprintable(row.error)})\n")
            return
        self.file.write(f"{escape_unprintable(row.image)}: {escape_unprintable(row.captions[0])}\n")
        for caption in row.captions[1:]:
            self.file.write(f"    {escape_unprintable(caption)}\n")
