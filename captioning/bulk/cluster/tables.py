"""Parquet files with images, or with their URLs."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import fsspec

from captioning.bulk.writers.tables import import_pyarrow
from captioning.errors import ConfigError, DataError
from captioning.images.image_ref import ImageRef
from captioning.messages import suggest
from captioning.sources.given_names import is_url
from captioning.sources.urls import fetch_url

IMAGE_COLUMNS = ("image", "bytes", "jpg", "jpeg", "png", "webp", "url", "URL", "path", "file_name")
"""Columns in which images are looked for, in this order."""
_READ_AT_ONCE = 64  # rows; images in the file are in memory until they are read


def count_table_rows(
    name: str, image_column: str | None, keep: Sequence[str], max_rows: int
) -> Iterator[tuple[int, int, int]]:
    """Yield consecutive rows of a Parquet file: row group, first row in it, and number of rows.

    Row groups that hold the images themselves stay whole, because a group is read from its start.

    Args:
        name: Path or URL of the file.
        image_column: Column with the images; None to find it by its name.
        keep: Columns that must exist too.
        max_rows: Largest number of rows that name images elsewhere.

    Raises:
        ConfigError: There is no such column.
        DataError: The file cannot be read.
    """
    with _open_table(name) as table:
        check_columns(table.schema_arrow.names, keep, name)
        column = find_image_column(table.schema_arrow.names, image_column, name)
        is_text = _is_text(table.schema_arrow.field(column).type)
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            step = max_rows if is_text else max(rows, 1)
            for start in range(0, rows, step):
                yield group, start, min(step, rows - start)


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
        f"'{source}' has {problem}. Its columns are {columns}.{hint} Name one with --image-column."
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


def column_types(name: str, columns: Sequence[str]) -> dict[str, Any]:
    """Return the Arrow types of columns of a Parquet file.

    Raises:
        ConfigError: A column does not exist.
        DataError: The file cannot be read.
    """
    with _open_table(name) as table:
        check_columns(table.schema_arrow.names, columns, name)
        return {each: table.schema_arrow.field(each).type for each in columns}


def read_table_rows(
    name: str, rows: tuple[int, int, int], *, image_column: str | None, keep: Sequence[str]
) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield consecutive rows: the name ``FILE/ROW``, the image, and the columns to keep.

    Args:
        name: Path or URL of the file.
        rows: Row group, first row in it, and number of rows.
        image_column: Column with the images; None to find it by its name.
        keep: Columns to keep.

    Raises:
        DataError: The file cannot be read.
    """
    group, start, count = rows
    with _open_table(name) as table:
        column = find_image_column(table.schema_arrow.names, image_column, name)
        before = sum(table.metadata.row_group(each).num_rows for each in range(group))
        batches = table.iter_batches(
            _READ_AT_ONCE, row_groups=[group], columns=list({column: 0, **dict.fromkeys(keep)})
        )
        records = islice(_skip_rows(batches, start), count)
        for number, record in enumerate(records, before + start):
            kept = {each: record[each] for each in keep}
            yield f"{name}/{number}", record[column], kept


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
