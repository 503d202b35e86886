"""Rows of a run on a cluster as Parquet or JSON lines, and back."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from captioning.bulk.writers.base import CaptionRow
from captioning.bulk.writers.tables import escape_bytes, import_pyarrow, row_to_json

DIGEST = "sha256"
_DUPLICATE = "duplicate of "
_OWN = ("file_name", "text", "log_prob", "captions", "log_probs", "error", DIGEST, "captioner")


@dataclass(frozen=True)
class RowFormat:
    """Which columns the rows have, and how they are written."""

    name: str
    """``parquet`` or ``jsonl``."""
    lists: bool = False
    """Whether rows have all captions, and not only the best one."""
    digests: bool = False
    """Whether rows have the SHA-256 of the image file."""
    kept: tuple[str, ...] = ()
    """Columns of the inputs that the rows keep."""
    made_by: Mapping[str, Any] = field(default_factory=dict)
    """Model, search and version, for the metadata of Parquet files."""

    def columns(self) -> dict[str, Any]:
        """Return the Arrow types of the columns; None if the type follows from the values."""
        pyarrow = import_pyarrow()
        text, number = pyarrow.string(), pyarrow.float64()
        columns: dict[str, Any] = {"file_name": text, "text": text, "log_prob": number}
        if self.lists:
            columns |= {"captions": pyarrow.list_(text), "log_probs": pyarrow.list_(number)}
        columns["error"] = text
        if self.digests:
            columns[DIGEST] = text
        return columns | dict.fromkeys(map(kept_name, self.kept))

    def encode(self, records: Sequence[Mapping[str, Any]], types: Mapping[str, Any]) -> bytes:
        """Return records as the content of a file.

        Args:
            records: The rows; missing columns are null.
            types: Arrow types of kept columns, as far as they are known.
        """
        columns = self.columns()
        if self.name == "jsonl":
            lines = (
                json.dumps({name: each.get(name) for name in columns}, default=str)
                for each in records
            )
            return "".join(f"{line}\n" for line in lines).encode()
        pyarrow = import_pyarrow()
        arrays = [
            pyarrow.array([each.get(name) for each in records], kind or types.get(name))
            for name, kind in columns.items()
        ]
        arrays = [each.cast("string") if each.type == "null" else each for each in arrays]
        table = pyarrow.Table.from_arrays(arrays, list(columns))
        table = table.replace_schema_metadata({"captioning": json.dumps(dict(self.made_by))})
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(table, buffer)
        return buffer.getvalue()


def read_records(name: str, content: bytes, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield columns of the rows of a file; absent columns are None.

    Args:
        name: Its name, which ends in the format.
        content: Its content.
        columns: Names of the columns.
    """
    if name.endswith(".jsonl"):
        for line in io.BytesIO(content):
            record = json.loads(line)
            yield {each: record.get(each) for each in columns}
        return
    with import_pyarrow().parquet.ParquetFile(io.BytesIO(content)) as table:
        present = [each for each in columns if each in table.schema_arrow.names]
        for batch in table.iter_batches(columns=present):
            for record in batch.to_pylist():
                yield {each: record.get(each) for each in columns}


def make_record(
    row: CaptionRow, kept: Mapping[str, Any], *, lists: bool, digest: str = ""
) -> dict[str, Any]:
    """Return a row as a record.

    Args:
        row: The row.
        kept: Columns of the input to keep, by their names there.
        lists: Add all captions to the best one.
        digest: SHA-256 of the image file, if it is known.
    """
    renamed = {kept_name(name): value for name, value in kept.items()}
    return {**row_to_json(row, lists=lists), DIGEST: digest or None, **renamed}


def kept_name(name: str) -> str:
    """Return the name of a kept column in the output, where other columns have their names too."""
    return f"input_{name}" if name in _OWN else name


def describe_duplicate(name: str) -> str:
    """Return the reason why an image with the content of another one has no caption."""
    return f"{_DUPLICATE}'{escape_bytes(name)}'."


def is_duplicate(error: str | None) -> bool:
    """Return whether :func:`describe_duplicate` has made a reason."""
    return bool(error) and str(error).startswith(_DUPLICATE)
