"""CSV: one row per image with its best caption."""

import csv

from captioning.bulk.writers.base import CaptionRow
from captioning.bulk.writers.files import FileWriter

COLUMNS = ("file_name", "text", "image", "caption", "log_prob", "error")
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "'")


class CsvWriter(FileWriter):
    r"""Writes a table that spreadsheets open without running formulas.

    Rows end in ``\r\n``, so file names with either character are quoted.
    """

    def _write_start(self) -> None:
        self._table = csv.writer(self.file)
        self._table.writerow(COLUMNS)

    def _write_row(self, row: CaptionRow) -> None:
        caption = escape_cell(row.captions[0]) if row.ok else ""
        log_prob = row.log_probs[0] if row.ok else None
        self._table.writerow(
            [
                escape_cell(row.file_name),
                caption,
                escape_cell(row.image),
                caption,
                "" if log_prob is None else f"{log_prob:.3f}",
                escape_cell(row.error),
            ]
        )


def escape_cell(cell: str) -> str:
    """Put a quote before text that a spreadsheet would run as a formula.

    Text that begins with a quote gets another one, so different texts stay different.
    """
    return f"'{cell}" if cell.startswith(_FORMULA_STARTS) else cell


def unescape_cell(cell: str) -> str:
    """Undo :func:`escape_cell`."""
    return cell.removeprefix("'")
