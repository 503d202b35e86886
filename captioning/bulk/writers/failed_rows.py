"""Failed images of a table, in a file of their own.

A table of captions is loaded by programs that expect an image and a caption in each row. The images
without a caption are therefore listed in ``NAME.failed.jsonl`` next to the table ``NAME``.
"""

from dataclasses import replace
from pathlib import Path

from captioning.bulk.writers.base import CaptionRow, Writer
from captioning.bulk.writers.files import FileWriter, part_path
from captioning.bulk.writers.tables import JsonLinesWriter

_SUFFIX = ".failed.jsonl"


def failed_path(output: Path) -> Path:
    """Return the path of the failed images of a table."""
    return output.with_name(output.name + _SUFFIX)


def is_failed_path(path: Path) -> bool:
    """Return whether a path is that of failed images."""
    return path.name.endswith(_SUFFIX)


class _FailedRowsWriter(JsonLinesWriter):
    written_at_end = True  # complete and up to date, or not there


class SplitWriter(Writer):
    """Writes rows with captions into a table, and the others into ``NAME.failed.jsonl``.

    The file exists only if images failed. Each of its rows has the number of rows before it
    (``index``), so that the order of all rows is known.

    Args:
        table: Writer of the table.
        path: Path of the failed images, see :func:`failed_path`.
    """

    def __init__(self, table: FileWriter, path: Path) -> None:
        self._table = table
        self._path = path
        self._failed: FileWriter | None = None
        self._count = 0

    def write(self, row: CaptionRow) -> None:
        """Write one row into its file; see :meth:`Writer.write`."""
        if row.ok:
            self._table.write(row)
        else:
            self._failed = self._failed or _FailedRowsWriter(self._path)
            self._failed.write(replace(row, index=self._count))
        self._count += 1

    def flush(self) -> None:
        """Flush the table."""
        self._table.flush()

    def close(self, *, keep_existing_if_longer: bool = False) -> None:
        """Complete both files, and remove a list of failed images that is not true any more."""
        self._table.close(keep_existing_if_longer=keep_existing_if_longer)
        if self._failed is None or self._table.kept_existing:
            self.abandon()
            outdated = [part_path(self._path)]
            outdated += [] if self._table.kept_existing else [self._path]
            for path in outdated:
                path.unlink(missing_ok=True)
        else:
            self._failed.close()

    def abandon(self) -> None:
        """Close both files; a partial one keeps its ``.part`` name."""
        for writer in (self._table, self._failed):
            if writer is not None:
                writer.abandon()
