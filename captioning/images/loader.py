"""Image loader: reads and resizes images in worker processes, ahead of the network, in order."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from captioning.errors import ConfigError
from captioning.images.image_readers import ImageReaders, read_in_process
from captioning.images.image_ref import ImageRef
from captioning.images.preprocessing import Preprocessing
from captioning.images.worker import DecodedImage, WorkerConfig
from captioning.messages import check_minimum

_BATCHES_AHEAD = 2
_MAX_TIME_LIMIT = 1_000_000  # seconds
_MAX_BYTES_AHEAD = 512 << 20  # of file contents that wait for a worker


@dataclass(frozen=True)
class PixelBatch:
    """Consecutive images in the order of the request.

    Attributes:
        images: The requested images.
        pixels: Pixels of those that are readable.
        errors: Per image, the reason why it is not readable; empty if it is.
        thumbnails: Per image, a small JPEG or empty bytes.
        waited: Seconds for which the consumer waited for this batch.
        reading: Seconds that the readers took for its images, added up.
    """

    images: tuple[ImageRef, ...]
    pixels: UInt8[Tensor, "B 3 S S"]
    errors: tuple[str, ...]
    thumbnails: tuple[bytes, ...] = ()
    waited: float = 0.0
    reading: float = 0.0


@dataclass(frozen=True)
class ImageLoader:
    """Loads images as batches of pixels."""

    preprocessing: Preprocessing
    """Preprocessing of the encoder."""
    batch_size: int = 64
    """Images per batch."""
    workers: int = 2
    """Worker processes; 0 decodes in this process, without time limit."""
    allow_truncated: bool = False
    """Accept incomplete files; the missing part is black."""
    time_limit: float = 60.0
    """Seconds per image."""
    thumbnail: int = 0
    """Longest side of a thumbnail in pixels; 0 for none."""
    min_side: int = 0
    """Images whose shorter side has fewer pixels are errors."""
    pool: ImageReaders | None = field(default=None, compare=False)
    """Readers from :meth:`open_pool` for several calls; None starts readers for each call."""
    on_batch: Callable[[PixelBatch], None] = field(default=lambda batch: None, compare=False)
    """Called with each batch when it is taken."""

    def __post_init__(self) -> None:
        check_minimum(self, batch_size=1, workers=0, thumbnail=0, min_side=0)
        if not 0 < self.time_limit <= _MAX_TIME_LIMIT:
            raise ConfigError(
                f"time_limit is {self.time_limit}; it must be above 0 and at most "
                f"{_MAX_TIME_LIMIT:,} seconds."
            )

    @property
    def readers(self) -> int:
        """Number of images that are read at the same time."""
        return max(1, min(self.workers, os.cpu_count() or 1))

    @property
    def worker_config(self) -> WorkerConfig:
        """Configuration of the worker processes."""
        return WorkerConfig(
            self.preprocessing.size,
            self.preprocessing.interpolation,
            self.preprocessing.fit,
            self.allow_truncated,
            self.thumbnail,
            self.min_side,
        )

    def batches(self, images: Iterable[str | ImageRef]) -> Iterator[PixelBatch]:
        """Yield all images in order; only a few batches are in memory at a time.

        A worker process has one image at a time. If its decoder crashes, exceeds the memory limit
        or the time limit, only that image is reported as unreadable.
        """
        refs = (ImageRef(image) if isinstance(image, str) else image for image in images)
        results = self._read_in_workers(refs) if self.workers else map(self._read_here, refs)
        started = time.monotonic()
        while items := list(islice(results, self.batch_size)):
            batch = replace(self._collate(items), waited=time.monotonic() - started)
            self.on_batch(batch)
            yield batch
            started = time.monotonic()

    def open_pool(self) -> ImageReaders:
        """Start readers that stay open between calls of :meth:`batches`; see ``pool``."""
        return ImageReaders(self.worker_config, self.readers, self.time_limit)

    def _read_in_workers(
        self, images: Iterator[ImageRef]
    ) -> Iterator[tuple[ImageRef, DecodedImage]]:
        readers = self.pool or self.open_pool()
        pending: deque[tuple[ImageRef, Future[DecodedImage]]] = deque()
        try:
            max_pending = self.batch_size * _BATCHES_AHEAD + self.readers
            pending_bytes = 0
            for image in images:
                pending.append((image, readers.submit(image)))
                pending_bytes += _content_size(image)
                while len(pending) >= max_pending or pending_bytes > _MAX_BYTES_AHEAD:
                    first, result = pending.popleft()
                    pending_bytes -= _content_size(first)
                    yield first, result.result()
            while pending:
                first, result = pending.popleft()
                yield first, result.result()
        finally:
            if self.pool is None:
                readers.close()

    def _read_here(self, image: ImageRef) -> tuple[ImageRef, DecodedImage]:
        return image, read_in_process(image, self.worker_config, self.time_limit)

    def _collate(self, items: list[tuple[ImageRef, DecodedImage]]) -> PixelBatch:
        size = self.preprocessing.size
        decoded = [np.frombuffer(item.pixels, np.uint8) for _, item in items if item.pixels]
        pixels = np.stack(decoded) if decoded else np.zeros((0,), np.uint8)
        return PixelBatch(
            tuple(image for image, _ in items),
            torch.from_numpy(pixels.reshape(len(decoded), 3, size, size)),
            tuple(item.error for _, item in items),
            tuple(item.thumbnail for _, item in items),
            reading=sum(item.seconds for _, item in items),
        )


def _content_size(image: ImageRef) -> int:
    return len(image.content) if isinstance(image.content, bytes) else 0
