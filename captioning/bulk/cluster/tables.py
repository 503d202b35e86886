"""Parquet files with images, or with their URLs."""

import base64
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import fsspec

from captioning.bulk.cluster.config import IMAGE_COLUMNS
from captioning.bulk.writers.tables import import_pyarrow
from captioning.errors import ConfigError, DataError
from captioning.images.image_ref import ImageRef
from captioning.messages import suggest
from captioning.sources.given_names import is_url
from captioning.sources.urls import fetch_url

_READ_AT_ONCE = 64  # rows; images in the file are in memory until they are read


@dataclass(frozen=True)
class TableRows:
    """Consecutive rows of a Parquet file."""

    group: int
    """Row group."""
    start: int
    """First row in the row group."""
    number: int
    """First row in the file."""
    count: int
    """Number of rows."""


class KeptTypes:
    """Arrow types of the columns to keep.

    Args:
        names: Names of the columns.
        must_agree: Refuse files whose types differ.
    """

    def __init__(self, names: Sequence[str], *, must_agree: bool) -> None:
        self.names, self._must_agree = names, must_agree
        self._found: dict[str, tuple[Any, str]] = {}  # type, and a file that has it

    def add(self, schema: Any, source: str) -> None:
        """Add the types of a file.

        Raises:
            ConfigError: A column does not exist, or another file has another type.
        """
        check_columns(schema.names, self.names, source)
        types = import_pyarrow().types
        for name in self.names:
            kind = schema.field(name).type
            kind = kind.value_type if types.is_dictionary(kind) else kind
            if types.is_null(kind):  # it has no values
                continue
            other, first = self._found.setdefault(name, (kind, source))
            if kind != other and self._must_agree:
                raise ConfigError(
                    f"the column {name!r} has the type {other} in '{first}', and {kind} in "
                    f"'{source}'. Convert it to one type, leave it out of keep_columns, or use "
                    "--format jsonl."
                )

    def to_text(self) -> str:
        """Return the types as text."""
        schema = import_pyarrow().schema({name: kind for name, (kind, _) in self._found.items()})
        return base64.b64encode(schema.serialize()).decode()


def read_kept_types(text: str) -> dict[str, Any]:
    """Return the types by name, from :meth:`KeptTypes.to_text`."""
    pyarrow = import_pyarrow()
    schema = pyarrow.ipc.read_schema(pyarrow.py_buffer(base64.b64decode(text)))
    return dict(zip(schema.names, schema.types, strict=True))


def list_table_rows(
    name: str, image_column: str | None, kept: KeptTypes, max_rows: int
) -> Iterator[TableRows]:
    """Yield the rows of a Parquet file.

    Row groups that hold the images themselves stay whole, because a group is read from its start.

    Args:
        name: Path or URL of the file.
        image_column: Column with the images; None to find it by its name.
        kept: Columns that must exist too; their types are added.
        max_rows: Largest number of rows that name images elsewhere.

    Raises:
        ConfigError: There is no such column, or a column has another type in another file.
        DataError: The file cannot be read.
    """
    number = 0
    with _open_table(name) as table:
        kept.add(table.schema_arrow, name)
        column = find_image_column(table.schema_arrow.names, image_column, name)
        is_text = _is_text(table.schema_arrow.field(column).type)
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            step = max_rows if is_text else max(rows, 1)
            for start in range(0, rows, step):
                count = min(step, rows - start)
                yield TableRows(group, start, number, count)
                number += count


def find_image_column(names: Sequence[str], wanted: str | None, source: str) -> str:
    """Return the column with the images.

    Raises:
        ConfigError: There is no such column.
    """
    found = [each for each in ((wanted,) if wanted else IMAGE_COLUMNS) if each in names]
    if found:
        return found[0]
    columns = ", ".join(map(repr, names))
    problem = f"no column {wanted!r}" if wanted else "no column with a usual name for images"
    hint = suggest(wanted or "", names)
    raise ConfigError(
        f"'{source}' has {problem}. Its columns are {columns}.{hint} Name one with image_column."
    )


def check_columns(names: Sequence[str], wanted: Sequence[str], source: str) -> None:
    """Check that columns exist.

    Raises:
        ConfigError: One does not.
    """
    for each in wanted:
        if each not in names:
            raise ConfigError(
                f"'{source}' has no column {each!r} to keep. Its columns are "
                f"{', '.join(map(repr, names))}.{suggest(each, names)}"
            )


def read_table_rows(
    name: str, rows: TableRows, *, image_column: str | None, keep: Sequence[str]
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield the image and the columns to keep of consecutive rows.

    Args:
        name: Path or URL of the file.
        rows: The rows.
        image_column: Column with the images; None to find it by its name.
        keep: Columns to keep.

    Raises:
        DataError: The file cannot be read.
    """
    with _open_table(name) as table:
        column = find_image_column(table.schema_arrow.names, image_column, name)
        columns = list(dict.fromkeys([column, *keep]))
        batches = table.iter_batches(_READ_AT_ONCE, row_groups=[rows.group], columns=columns)
        for record in islice(_skip_rows(batches, rows.start), rows.count):
            yield record[column], {each: record[each] for each in keep}


def _skip_rows(batches: Iterator[Any], count: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of batches from number ``count`` on."""
    for batch in batches:
        skipped = min(count, len(batch))
        count -= skipped
        yield from batch.slice(skipped).to_pylist()


def _is_text(kind: Any) -> bool:
    types = import_pyarrow().types
    return types.is_string(kind) or types.is_large_string(kind) or types.is_dictionary(kind)


@contextmanager
def _open_table(name: str) -> Iterator[Any]:
    pyarrow = import_pyarrow()
    try:
        with fsspec.open(name, "rb") as file, pyarrow.parquet.ParquetFile(file) as table:
            yield table
    except (ConfigError, DataError):
        raise
    except FileNotFoundError as error:
        raise DataError(f"cannot read '{name}': no such file. Check the path.") from error
    except Exception as error:  # pyarrow and file systems have their own classes
        raise DataError(f"cannot read '{name}' as Parquet: {error}. Write it again.") from error


def image_of_value(value: Any, name: str, folder: str, time_limit: float) -> ImageRef:
    """Return the image that a value of a table stands for.

    Args:
        value: Bytes of an image file, a path, a URL, or a record with ``bytes`` and ``path``.
        name: Name of the image if the value is not a path or URL.
        folder: Folder from which relative paths start.
        time_limit: Seconds to wait for the next piece of an HTTP answer.
    """
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return ImageRef(name, value)
    if not isinstance(value, str) or not value:
        problem = "it is empty" if not value else f"it is of type {type(value).__name__}"
        return ImageRef(name, error=f"cannot read '{name}': {problem}. Check the table.")
    if is_url(value):
        return ImageRef(value, partial(fetch_url, value, time_limit))
    return ImageRef(os.path.join(folder, value))  # noqa: PTH118
