"""Inputs of a run on a cluster, as short records that a file can hold.

The inputs are listed once, at the start of a run, and divided into partitions. A run that resumes
has the same partitions, even if files were added since.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from typing import Literal

from captioning.bulk.cluster.tables import KeptTypes, TableRows, list_table_rows
from captioning.errors import ConfigError, DataError
from captioning.images.image_ref import ImageRef
from captioning.sources.find import SourceConfig, find_images
from captioning.sources.given_names import absolute_name
from captioning.sources.image_names import is_archive


@dataclass(frozen=True)
class Entry:
    """One image, one archive, or consecutive rows of a Parquet file."""

    name: str
    """Absolute path, or URL."""
    kind: Literal["image", "archive", "table"] = "image"
    error: str = ""
    """Reason why an image cannot be read, if that is known already."""
    group: int = 0
    """Row group of a Parquet file; see :class:`TableRows`."""
    start: int = 0
    number: int = 0
    count: int | None = None
    """Number of images; None for all images of an archive."""

    @property
    def rows(self) -> TableRows:
        """The rows of a Parquet file."""
        return TableRows(self.group, self.start, self.number, self.count or 0)

    def to_json(self) -> str:
        """Return the entry as JSON, without the fields that have their default values."""
        defaults = {field.name: field.default for field in fields(self)}
        values = asdict(self)
        return json.dumps({name: v for name, v in values.items() if v != defaults[name]})

    @classmethod
    def from_json(cls, line: str) -> "Entry":
        """Return the entry that :meth:`to_json` wrote."""
        return cls(**json.loads(line))


def list_entries(
    images: Iterable[ImageRef],
    image_column: str | None,
    kept: KeptTypes,
    partition_size: int,
) -> Iterator[Entry]:
    """Yield the inputs of a run.

    Args:
        images: Images, archives and Parquet files (``SourceConfig(open_archives=False)``).
        image_column: Column of Parquet files with the images; None to find it by its name.
        kept: Columns of Parquet files to keep; their types are added.
        partition_size: Largest number of rows of an entry whose images are not in the file.

    Raises:
        ConfigError: An image is the content of standard input, or a Parquet file does not have
            the columns, or has other types of columns than another file.
    """
    for image in images:
        name = image.name
        if isinstance(image.content, bytes):
            raise ConfigError(
                "--engine ray cannot read an image from standard input. Give a file, or a list."
            )
        name = absolute_name(name)  # actors have another folder
        if image.error:
            yield Entry(name, error=image.error)
        elif is_archive(name):
            yield Entry(name, "archive")
        elif name.lower().endswith(".parquet"):
            try:
                for rows in list_table_rows(name, image_column, kept, partition_size):
                    yield Entry(name, "table", **asdict(rows))
            except DataError as error:
                yield Entry(name, error=str(error))
        else:
            yield Entry(name)


def limit_entries(
    entries: Iterable[Entry], limit: int | None, options: SourceConfig
) -> Iterator[Entry]:
    """Yield entries with at most ``limit`` images together.

    Archives are read up to the limit, to count their images.
    """
    if limit is None:
        yield from entries
        return
    for entry in entries:
        count = 1 if entry.kind == "image" else entry.count
        if count is None:
            with closing(find_images([entry.name], replace(options, patterns=False))) as images:  # type: ignore[type-var]
                count = sum(1 for _ in islice(images, limit))
        yield entry if entry.kind == "image" else replace(entry, count=min(count, limit))
        limit -= min(count, limit)
        if not limit:
            return


def divide(entries: Iterable[Entry], size: int) -> Iterator[list[Entry]]:
    """Yield partitions: consecutive entries with ``size`` images, or one archive.

    Rows of Parquet files stay together; a partition may therefore have more images.
    """
    partition: list[Entry] = []
    images = 0
    for entry in entries:
        count = entry.count or 1
        is_full = images + count > size if entry.kind == "table" else images >= size
        if partition and (is_full or entry.kind == "archive"):
            yield partition
            partition, images = [], 0
        partition.append(entry)
        images += size if entry.kind == "archive" else count
    if partition:
        yield partition


def count_images(partition: Iterable[Entry]) -> int | None:
    """Return the number of images of a partition; None if it is not known."""
    counts = [1 if entry.kind == "image" else entry.count for entry in partition]
    return None if None in counts else sum(count or 0 for count in counts)
