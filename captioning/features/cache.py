"""Rows computed once for each image, and read from a memory-mapped file."""

import errno
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float16, Int, Shaped
from torch import Tensor

from captioning.errors import DataError
from captioning.files import write_atomic

_ROWS, _INDEX = "features.npy", "index.json"
_HALF = np.dtype(np.float16)


@runtime_checkable
class CacheRows(Protocol):
    """Rows of numbers for the images of a split, however they come about."""

    def __len__(self) -> int: ...

    @property
    def views(self) -> int:
        """How many views of each image can be asked for."""

    @property
    def unreadable(self) -> Mapping[int, str]:
        """What was wrong with the images that could not be read, by their row."""

    @property
    def readable(self) -> list[int]:
        """Rows of the images that could be read."""

    def read(self, images: Int[Tensor, " B"], views: Int[Tensor, " B"] | None = None) -> Tensor:
        """Return the rows ``(B, P, D)`` of ``images``.

        Args:
            images: Places of the images.
            views: Which view of each; the image itself where nothing is given.
        """


def _take_room(path: Path) -> None:
    """Take the file's whole room on the disk now.

    Without it, a disk that fills up later kills the process in the middle of a write to memory.

    Raises:
        OSError: There is no room.
    """
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                    return  # a file system that cannot
                path.unlink()
                raise


def _read_index(path: Path) -> dict[str, Any]:
    """Return what :meth:`RowCache.flush` wrote, or nothing where it is missing or damaged."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # what is there and cannot be read is not begun anew
        return {}
    if not (isinstance(index, dict) and {"shape", "done", "unreadable"} <= index.keys()):
        return {}
    return {**index, "unreadable": {int(row): why for row, why in index["unreadable"].items()}}


def rows_done(directory: Path) -> int:
    """Return how many rows a cache counts on disk, which another process may be writing."""
    try:
        return int(_read_index(directory / _INDEX).get("done", 0))
    except OSError:
        return 0


def _whole_index(directory: Path, shape: tuple[int, int, int, int]) -> dict[str, Any] | None:
    """Return the index of a cache that counts all its rows, or None."""
    try:
        index = _read_index(directory / _INDEX)
    except OSError:
        return None
    whole = index.get("shape") == list(shape) and index["done"] == shape[0]
    return index if whole else None


def read_whole_cache(
    directory: Path, shape: tuple[int, int, int, int]
) -> tuple[Float16[np.ndarray, "images views P D"], dict[int, str]] | None:
    """Return the rows of a complete cache, unchanged on disk, and what could not be read.

    None where there is none in ``directory``, or it is incomplete, damaged, or of another shape.
    """
    if (index := _whole_index(directory, shape)) is None:
        return None
    rows = _map_rows(directory / _ROWS, shape)
    return None if rows is None else (rows, index["unreadable"])


def _map_rows(
    path: Path, shape: tuple[int, int, int, int], dtype: np.dtype = _HALF
) -> np.ndarray | None:
    """Map the rows of a cache to be read; None where they are missing, cut or damaged.

    Mapping them to be written would lengthen with zeros a file that was cut.
    """
    try:
        rows = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError):
        return None
    return rows if rows.shape == shape and rows.dtype == dtype else None


class RowCache:
    """Rows of numbers for each image, and which images could not be read.

    The file is an ordinary ``.npy`` array. Rows are written in order and counted in ``index.json``,
    so an interrupted run goes on where it was.

    Args:
        directory: Where this one cache lies.
        shape: ``(images, views, P, D)``.
    """

    dtype: ClassVar[np.dtype]
    """Of the numbers in the file."""

    def __init__(self, directory: Path, shape: tuple[int, int, int, int]) -> None:
        self.directory = directory
        self.done = 0
        self.unreadable: dict[int, str] = {}
        self._file = directory / _ROWS
        self._index = directory / _INDEX
        try:
            self._open(shape)
        except OSError as error:
            raise DataError(
                f"The cache {directory} cannot be written or read: {error}. "
                "Give another directory as cache."
            ) from error

    @classmethod
    def is_whole(cls, directory: Path, shape: tuple[int, int, int, int]) -> bool:
        """Return whether a folder holds all rows of this kind and shape; nothing is changed."""
        if _whole_index(directory, shape) is None:
            return False
        return _map_rows(directory / _ROWS, shape, cls.dtype) is not None

    def _open(self, shape: tuple[int, int, int, int]) -> None:
        index = _read_index(self._index)
        if (
            index.get("shape") == list(shape)
            and _map_rows(self._file, shape, self.dtype) is not None
        ):
            self.done = index["done"]
            self.unreadable = index["unreadable"]
            self.rows = np.lib.format.open_memmap(self._file, mode="r+")
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        self._index.unlink(missing_ok=True)  # what it counts is not in the rows that begin now
        self.rows = np.lib.format.open_memmap(self._file, mode="w+", dtype=self.dtype, shape=shape)
        self.flush()  # so that another run that needs the same rows does not begin its own
        _take_room(self._file)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def views(self) -> int:
        """Views of each image: 2 or more where its mirror image was looked at as well."""
        return int(self.rows.shape[1])

    @property
    def complete(self) -> bool:
        """Whether every image has been looked at."""
        return self.done == len(self)

    @property
    def readable(self) -> list[int]:
        """Rows of the images that could be read."""
        return [row for row in range(len(self)) if row not in self.unreadable]

    def append(self, features: Shaped[Tensor, "B W P D"], problems: Mapping[int, str]) -> None:
        """Write the next images' features.

        Args:
            features: Zeros in the rows of images that could not be read.
            problems: What was wrong with those, by their row in this batch.
        """
        end = self.done + len(features)
        self.rows[self.done : end] = features.to(self.stored).numpy()
        self.unreadable |= {self.done + row: why for row, why in problems.items()}
        self.done = end

    def flush(self) -> None:
        """Make sure that what was appended survives the end of this process."""
        self.rows.flush()
        index = {"shape": list(self.rows.shape), "done": self.done, "unreadable": self.unreadable}
        write_atomic(self._index, json.dumps(index))

    def read(
        self, images: Int[Tensor, " B"], views: Int[Tensor, " B"] | None = None
    ) -> Shaped[Tensor, "B P D"]:
        """Return the rows of ``images``, features as 32-bit numbers.

        Args:
            images: Places of the images.
            views: Which view of each; the image itself where nothing is given.
        """
        view = np.zeros(len(images), int) if views is None else views.numpy()
        rows = torch.from_numpy(self.rows[images.numpy(), view])
        return rows.float() if rows.is_floating_point() else rows

    @property
    def stored(self) -> torch.dtype:
        """Torch's name for :attr:`dtype`."""
        return torch.from_numpy(np.empty(0, self.dtype)).dtype


class FeatureCache(RowCache):
    """Features of 16 bits.

    P is 1 where only v is kept, and views are those of :mod:`captioning.images.augmentation`.
    """

    dtype = _HALF


class PixelCache(RowCache):
    """Pixels: each position is one, and its D are its colours. The rows are ``(1, S * S, 3)``."""

    dtype = np.dtype(np.uint8)


class JoinedCaches:
    """Several caches read as one: the images of each after those of the one before it.

    Args:
        caches: With the same views, positions and channels.
    """

    def __init__(self, caches: Sequence[RowCache]) -> None:
        self.caches = list(caches)
        self._starts = np.cumsum([0, *map(len, caches)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def views(self) -> int:
        """Views of each image."""
        return self.caches[0].views

    @property
    def unreadable(self) -> dict[int, str]:
        """What was wrong with the images that could not be read, by their row."""
        return {
            int(start) + row: why
            for start, cache in zip(self._starts, self.caches, strict=False)
            for row, why in cache.unreadable.items()
        }

    @property
    def readable(self) -> list[int]:
        """Rows of the images that could be read."""
        unreadable = self.unreadable
        return [row for row in range(len(self)) if row not in unreadable]

    def read(
        self, images: Int[Tensor, " B"], views: Int[Tensor, " B"] | None = None
    ) -> Shaped[Tensor, "B P D"]:
        """Return the rows of ``images``, as :meth:`RowCache.read` does."""
        views = torch.zeros_like(images) if views is None else views
        none = self.caches[0].read(images[:0])
        found = none.new_empty(len(images), *none.shape[1:])
        owner = np.searchsorted(self._starts, images.numpy(), side="right") - 1
        for number, cache in enumerate(self.caches):
            rows = torch.from_numpy(np.flatnonzero(owner == number))
            if len(rows):
                local = images[rows] - int(self._starts[number])
                found[rows] = cache.read(local, views[rows])
        return found
