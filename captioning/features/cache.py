"""Cached features or pixels of images: NumPy arrays on disk, read by memory mapping."""

import errno
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float16, Int, Shaped
from torch import Tensor

from captioning.errors import DataError
from captioning.files import write_atomic

_ROWS, _INDEX = "features.npy", "index.json"
_HALF = np.dtype(np.float16)
_Shape = tuple[int, int, int, int]


class CacheRows(ABC):
    """Rows of the images of a split: a cache, or rows that are computed on demand.

    Attributes:
        views: Number of views per image.
        unreadable: Reason for each image that cannot be read, by its row.
    """

    views: int
    unreadable: Mapping[int, str]

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def read(
        self, images: Int[Tensor, " B"], views: Int[Tensor, " B"] | None = None
    ) -> Shaped[Tensor, "B P D"]:
        """Return features or pixels of images. Features are returned as float32.

        Args:
            images: Row of each image.
            views: View of each image. None: the whole image, not flipped.
        """

    def count_positions(self, images: Int[Tensor, " B"]) -> Int[Tensor, " B"] | None:
        """Return the number of positions of images; the rest of P is padding. None: all have P."""
        return None

    @property
    def readable(self) -> list[int]:
        """Rows of the images that can be read."""
        return [row for row in range(len(self)) if row not in self.unreadable]


def _allocate(path: Path) -> None:
    """Reserve the disk space of a sparse file.

    Otherwise a disk that fills up later kills the process during a write to mapped memory.

    Raises:
        OSError: There is not enough space. The file is removed.
    """
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                    return  # not supported by the file system
                path.unlink()
                raise


def _read_index(path: Path) -> dict[str, Any]:
    """Return the index that :meth:`RowCache.flush` wrote, or ``{}`` if it is missing or damaged.

    Raises:
        OSError: The file exists but cannot be read. The cache must not be overwritten then.
    """
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    if not (isinstance(index, dict) and {"shape", "done", "unreadable"} <= index.keys()):
        return {}
    return {**index, "unreadable": {int(row): why for row, why in index["unreadable"].items()}}


def _read_complete_index(directory: Path, shape: _Shape) -> dict[str, Any] | None:
    try:
        index = _read_index(directory / _INDEX)
    except OSError:
        return None
    return index if index.get("shape") == list(shape) and index["done"] == shape[0] else None


def count_rows(directory: Path) -> int:
    """Return the number of rows that the index of a cache counts."""
    try:
        return int(_read_index(directory / _INDEX).get("done", 0))
    except OSError:
        return 0


def open_complete_rows(
    directory: Path, shape: _Shape
) -> tuple[Float16[np.ndarray, "images views P D"], dict[int, str]] | None:
    """Return the rows of a complete cache of features, and the reasons for unreadable images.

    Returns None, and changes nothing, if the cache is missing, incomplete, damaged, or has
    another shape.
    """
    if (index := _read_complete_index(directory, shape)) is None:
        return None
    rows = _map_rows(directory / _ROWS, shape, _HALF)
    return None if rows is None else (rows, index["unreadable"])


def _map_rows(path: Path, shape: _Shape, dtype: np.dtype) -> np.ndarray | None:
    """Map rows for reading. None if the file is missing, truncated, or damaged.

    A writable mapping would extend a truncated file with zeros.
    """
    try:
        rows = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError):
        return None
    return rows if rows.shape == shape and rows.dtype == dtype else None


class RowCache(CacheRows):
    """Rows of numbers for each image, in an ordinary ``.npy`` file.

    Rows are appended in order and counted in ``index.json``, so an interrupted extraction resumes.

    Args:
        directory: Directory of this cache only.
        shape: ``(images, views, P, D)``.

    Raises:
        DataError: The directory cannot be read or written.
    """

    dtype: ClassVar[np.dtype]
    """Type of the stored numbers."""

    def __init__(self, directory: Path, shape: _Shape) -> None:
        self.directory = directory
        self.views = shape[1]
        self.done = 0
        self.unreadable: dict[int, str] = {}
        self._file = directory / _ROWS
        self._index = directory / _INDEX
        try:
            self._open(shape)
        except OSError as error:
            raise DataError(
                f"cannot read or write the cache '{directory}': {error}. Use another cache."
            ) from error

    @classmethod
    def is_complete(cls, directory: Path, shape: _Shape) -> bool:
        """Return whether a directory holds all rows, without changing it."""
        if _read_complete_index(directory, shape) is None:
            return False
        return _map_rows(directory / _ROWS, shape, cls.dtype) is not None

    def _open(self, shape: _Shape) -> None:
        index = _read_index(self._index)
        rows = _map_rows(self._file, shape, self.dtype)
        if index.get("shape") == list(shape) and rows is not None:
            self.done = index["done"]
            self.unreadable = index["unreadable"]
            self.rows = np.lib.format.open_memmap(self._file, mode="r+")
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        self._index.unlink(missing_ok=True)  # it counts rows that are overwritten now
        self.rows = np.lib.format.open_memmap(self._file, mode="w+", dtype=self.dtype, shape=shape)
        self.flush()  # so that another process opens these rows instead of overwriting them
        _allocate(self._file)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def complete(self) -> bool:
        """Whether all rows are written."""
        return self.done == len(self)

    def append(self, rows: Shaped[Tensor, "B views P D"], errors: Mapping[int, str]) -> None:
        """Write the rows of the next images.

        Args:
            rows: Rows of all views. Zeros for images that cannot be read.
            errors: Reason for each image that cannot be read, by its row in this batch.
        """
        end = self.done + len(rows)
        self.rows[self.done : end] = rows.to(self.torch_dtype).numpy()
        self.unreadable |= {self.done + row: reason for row, reason in errors.items()}
        self.done = end

    def flush(self) -> None:
        """Write appended rows to disk, and count them in the index."""
        self.rows.flush()
        index = {"shape": list(self.rows.shape), "done": self.done, "unreadable": self.unreadable}
        write_atomic(self._index, json.dumps(index))

    def read(
        self, images: Int[Tensor, " B"], views: Int[Tensor, " B"] | None = None
    ) -> Shaped[Tensor, "B P D"]:
        """Return features or pixels of images. Arguments as in :meth:`CacheRows.read`."""
        view = np.zeros(len(images), int) if views is None else views.numpy()
        rows = torch.from_numpy(self.rows[images.numpy(), view])
        return rows.float() if rows.is_floating_point() else rows

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch type of :attr:`dtype`."""
        return torch.from_numpy(np.empty(0, self.dtype)).dtype


class FeatureCache(RowCache):
    """Features in 16 bits. P is 1 if only v is cached.

    Views are numbered as in :mod:`captioning.images.augmentation`.
    """

    dtype = _HALF


class PixelCache(RowCache):
    """Pixels in 8 bits. P is the number of pixels, and D the three color channels."""

    dtype = np.dtype(np.uint8)


class JoinedCaches(CacheRows):
    """Several caches that are read as one, concatenated along the images.

    Args:
        caches: Caches with the same number of views, positions and channels.
    """

    def __init__(self, caches: Sequence[RowCache]) -> None:
        self.caches = list(caches)
        self.views = self.caches[0].views
        self._starts = np.cumsum([0, *map(len, caches)])
        self.unreadable = {
            int(start) + row: reason
            for start, cache in zip(self._starts, self.caches, strict=False)
            for row, reason in cache.unreadable.items()
        }

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(
        self, images: Int[Tensor, " B"], views: Int[Tensor, " B"] | None = None
    ) -> Shaped[Tensor, "B P D"]:
        """Return features or pixels of images. Arguments as in :meth:`CacheRows.read`."""
        views = torch.zeros_like(images) if views is None else views
        empty = self.caches[0].read(images[:0])
        result = empty.new_empty(len(images), *empty.shape[1:])
        owner = np.searchsorted(self._starts, images.numpy(), side="right") - 1
        for number, cache in enumerate(self.caches):
            rows = torch.from_numpy(np.flatnonzero(owner == number))
            if len(rows):
                local = images[rows] - int(self._starts[number])
                result[rows] = cache.read(local, views[rows])
        return result
