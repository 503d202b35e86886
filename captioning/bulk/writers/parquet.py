"""Parquet: a table with one row per image, all captions and log-probabilities included."""

from pathlib import Path
from typing import Any

from captioning.bulk.writers.base import CaptionRow
from captioning.bulk.writers.csv import COLUMNS
from captioning.bulk.writers.files import FileWriter
from captioning.bulk.writers.jsonl import row_to_json
from captioning.errors import ConfigError

_GROUP_ROWS = 10_000


class ParquetWriter(FileWriter):
    """Writes the columns of the CSV table and two lists, ``captions`` and ``log_probs``.

    Raises:
        ConfigError: pyarrow is not installed.
    """

    binary = True

    def __init__(self, output: Path | None) -> None:
        self._pyarrow = import_pyarrow()  # before the output is opened
        self._schema = _schema(self._pyarrow)
        super().__init__(output)

    def _write_start(self) -> None:
        self._table = self._pyarrow.parquet.ParquetWriter(self.file, self._schema)
        self._rows: list[dict[str, Any]] = []

    def _write_row(self, row: CaptionRow) -> None:
        self._rows.append({name: _to_utf8(value) for name, value in row_to_json(row).items()})
        if len(self._rows) == _GROUP_ROWS:
            self._write_group()

    def _write_group(self) -> None:
        if self._rows:
            table = self._pyarrow.Table.from_pylist(self._rows, self._schema)
            self._table.write_table(table)
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
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(
            "The Parquet format needs pyarrow, which is not installed. Run `pip install pyarrow`, "
            "or choose another format."
        ) from None
    return pyarrow


def _schema(pyarrow: Any) -> Any:
    text, number = pyarrow.string(), pyarrow.float64()
    columns = [(name, number if name == "log_prob" else text) for name in COLUMNS]
    lists = [("captions", pyarrow.list_(text)), ("log_probs", pyarrow.list_(number))]
    return pyarrow.schema([*columns, *lists])


def _to_utf8(value: Any) -> Any:
    """Escape the bytes of a file name that are not UTF-8; Parquet stores only UTF-8."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
