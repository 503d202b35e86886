"""Readers of Arrow tables: Parquet files, and the data sets of Hugging Face ``datasets``."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioning.datasets.rows import RowCollector
from captioning.datasets.source import CaptionSource
from captioning.datasets.spec import DatasetSpec
from captioning.datasets.table import find_folder
from captioning.errors import DataError
from captioning.file_patterns import require_matches
from captioning.images.image_ref import ContainedImage

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

_ROWS = 1000  # without images, that are read at once
_IMAGES = 16  # that are read at once
_KEPT = 4  # batches of images; the loader reads several images at the same time


def load_parquet(spec: DatasetSpec) -> CaptionSource:
    """Load Parquet files with the columns image and caption, and optionally split.

    An image is a path, the content of a file, or Hugging Face's ``{"bytes": ..., "path": ...}``.
    The content is read later, when the image is used. For the names of the columns see
    :mod:`captioning.datasets.rows`.

    Raises:
        DataError: pyarrow is not installed, or a file is missing or malformed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise DataError(f"'{spec.path}' needs pyarrow. Install it: pip install pyarrow") from None
    collector = RowCollector(spec.path)
    for path in require_matches(spec.path, ".parquet"):
        try:
            with pq.ParquetFile(path) as file:
                images = ParquetImages(path)
                refer = partial(ParquetImage, images)
                rows = _ArrowRows(collector, file.schema_arrow, str(path), refer)
                images.column = rows.content_column
                for batch in file.iter_batches(_ROWS, columns=rows.columns):
                    rows.add(pa.Table.from_batches([batch]))
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"cannot read '{path}': {error}. Copy the file again.") from error
    entries = collector.entries
    return CaptionSource(entries, find_folder(spec, entries))


def add_dataset(collector: RowCollector, data: "Dataset", split: str | None, name: str) -> None:
    """Add the rows of a data set of Hugging Face, whose columns are those of :func:`load_parquet`.

    Args:
        collector: Receives the rows.
        data: The data set. It must stay open as long as its images are read.
        split: Split of all rows; None if the data set has no splits or a column with them.
        name: Name of the data set, the start of the names of its images.

    Raises:
        DataError: It has no image or no caption.
    """
    arrow = data.with_format("arrow")

    def read(row: int) -> bytes | None:
        value = arrow[row : row + 1].column(rows.fields.image)[0].as_py()
        return value.get("bytes") if isinstance(value, dict) else value

    refer = partial(DatasetImage, read)
    rows = _ArrowRows(collector, data.features.arrow_schema, name, refer, split)
    for start in range(0, len(data), _ROWS):
        rows.add(arrow[start : start + _ROWS])


class _ArrowRows:
    """Adds the rows of tables with the same schema to a collector."""

    def __init__(
        self,
        collector: RowCollector,
        schema: "pa.Schema",
        source: str,
        refer: Callable[[int], Callable[[], bytes]],
        split: str | None = None,
    ) -> None:
        import pyarrow as pa

        self.collector, self.source, self.refer, self.split = collector, source, refer, split
        self.fields = collector.find_fields(tuple(schema.names), "columns")
        kind = schema.field(self.fields.image).type
        names = [field.name for field in kind] if pa.types.is_struct(kind) else []
        self.has_path = "path" in names
        self.is_named = not names and not _is_binary(kind)
        self.content_column = f"{self.fields.image}.bytes" if names else self.fields.image
        self._next = 0

    @property
    def columns(self) -> list[str]:
        """Columns of the names, captions and splits, without the content of images."""
        image = self.fields.image
        names = [image] if self.is_named else [f"{image}.path"] if self.has_path else []
        return [*names, self.fields.captions, *filter(None, [self.fields.split])]

    def add(self, table: "pa.Table") -> None:
        """Add the next rows.

        Raises:
            DataError: A caption or a split has the wrong type.
        """
        captions = table.column(self.fields.captions).to_pylist()
        splits = [self.split] * len(captions)
        if self.fields.split and self.split is None:
            splits = table.column(self.fields.split).to_pylist()
        for path, texts, split in zip(self._paths(table), captions, splits, strict=True):
            row, self._next = self._next, self._next + 1
            name, content = path, None
            if not (self.is_named or (path and Path(path).is_absolute() and Path(path).is_file())):
                name = f"{self.source}/{path or row}"
                content = self.refer(row)
            self.collector.add(f"row {row + 1}", str(name), texts, split, content=content)

    def _paths(self, table: "pa.Table") -> list[str | None]:
        if not (self.is_named or self.has_path):
            return [None] * len(table)
        column = table.column(self.fields.image)
        if self.is_named:
            return column.to_pylist()
        import pyarrow.compute as pc

        return pc.struct_field(column, "path").to_pylist()


def _is_binary(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


@dataclass(frozen=True, slots=True)
class DatasetImage:
    """An image in a row of a data set. A call reads the content of its file."""

    read: Callable[[int], bytes | None]
    row: int

    def __call__(self) -> bytes:
        """Read the content.

        Raises:
            OSError: There is none.
        """
        return _require(self.read(self.row), self.row)


@dataclass(frozen=True, slots=True)
class ParquetImage(ContainedImage):
    """An image in a row of a Parquet file."""

    file: "ParquetImages"
    row: int

    @property
    def path(self) -> str:  # type: ignore[override]
        """The file."""
        return str(self.file.path)

    @property
    def place(self) -> str:
        """Column and row."""
        return f"{self.file.column} {self.row}"

    def __call__(self) -> bytes:
        """Read the content.

        Raises:
            OSError: There is none.
        """
        return _require(self.file.read(self.row), self.row)


def _require(content: object, row: int) -> bytes:
    if not isinstance(content, bytes):
        raise OSError(f"row {row + 1} has no image. Remove the row.")
    return content


class ParquetImages:
    """The images of a Parquet file, in any order.

    Read in the order of the rows, each image is read from the file once, and a few are in memory.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.column = ""
        self._lock = threading.Lock()
        self._kept: deque[tuple[int, list[bytes | None]]] = deque(maxlen=_KEPT)
        self._batches: Iterator[list[bytes | None]] = iter(())
        self._next = 0

    def read(self, row: int) -> bytes | None:
        """Return the content of the image in a row.

        Raises:
            OSError: The file cannot be read.
        """
        with self._lock:
            if self._kept and self._kept[0][0] <= row:
                with suppress(Exception):  # rows before this one can be damaged
                    return self._advance(row)
            try:
                self._start(row)
                return self._advance(row)
            except Exception as error:  # pyarrow raises many kinds
                self._kept.clear()
                reason = str(error).partition("\n")[0]
                raise OSError(
                    f"cannot read row {row + 1} of '{self.path}': {reason}. Copy the file again."
                ) from error

    def _advance(self, row: int) -> bytes | None:
        while row >= self._next:
            batch = next(self._batches, None)
            if batch is None:
                raise OSError("the file has fewer rows")
            self._kept.append((self._next, batch))
            self._next += len(batch)
        return next(batch[row - start] for start, batch in reversed(self._kept) if start <= row)

    def _start(self, row: int) -> None:
        """Continue at the row group that contains a row."""
        import pyarrow.parquet as pq

        # Otherwise whole row groups would be in memory. With a map it is one page of the column.
        file = pq.ParquetFile(self.path, memory_map=True, pre_buffer=False)
        self._kept.clear()
        self._next = group = 0
        while self._next + (count := file.metadata.row_group(group).num_rows) <= row:
            self._next += count
            group += 1
        groups = list(range(group, file.metadata.num_row_groups))
        batches = file.iter_batches(
            _IMAGES, row_groups=groups, columns=[self.column], use_threads=False
        )
        self._batches = (_unpack(batch.column(0)) for batch in batches)


def _unpack(column: Any) -> list[bytes | None]:
    values = column.to_pylist()
    return [value["bytes"] if isinstance(value, dict) else value for value in values]
