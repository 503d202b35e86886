"""Cached features or pixels of images, as training and evaluation read them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from captioning.features.store import RowStore


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


class StoredRows(CacheRows):
    """Rows of a list of images in a store.

    Args:
        store: The store.
        digests: Digest of the content of each image.
        unreadable: Reason for each image that cannot be read, by its row. Its features are zero.
    """

    def __init__(
        self, store: RowStore, digests: Sequence[bytes | None], unreadable: Mapping[int, str]
    ) -> None:
        self.views = store.format.views
        self.unreadable = unreadable
        self._store = store
        self._entries = store.find(digests)

    def __len__(self) -> int:
        return len(self._entries)

    def read(
        self, images: Int[Tensor, " B"], views: Int[Tensor, " B"] | None = None
    ) -> Shaped[Tensor, "B P D"]:
        """Return features or pixels of images. Arguments as in :meth:`CacheRows.read`."""
        view = torch.zeros_like(images) if views is None else views
        return self._store.read(self._entries[images.numpy()], view.numpy())


class ArrayRows(CacheRows):
    """Features in memory.

    Args:
        features: Features of all views of each image.
        unreadable: Reason for each image that cannot be read, by its row.
    """

    def __init__(
        self, features: Float[Tensor, "N V P D"], unreadable: Mapping[int, str] | None = None
    ) -> None:
        self.features = features
        self.views = features.shape[1]
        self.unreadable = unreadable or {}

    def __len__(self) -> int:
        return len(self.features)

    def read(
        self, images: Int[Tensor, " B"], views: Int[Tensor, " B"] | None = None
    ) -> Shaped[Tensor, "B P D"]:
        """Return features of images. Arguments as in :meth:`CacheRows.read`."""
        return self.features[images, 0 if views is None else views].float()


class JoinedCaches(CacheRows):
    """Several caches that are read as one, concatenated along the images.

    Args:
        caches: Caches with the same number of views, positions and channels.
    """

    def __init__(self, caches: Sequence[CacheRows]) -> None:
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
