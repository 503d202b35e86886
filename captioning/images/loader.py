"""Images read and resized ahead of the network, in worker processes, in the order asked for."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from captioning.errors import ConfigError
from captioning.images import worker
from captioning.images.preprocessing import Preprocessing
from captioning.images.worker_pool import DecodedImage, ImageRef, WorkerProcess
from captioning.messages import check_minimum

_BATCHES_AHEAD = 2  # read while the network looks at another
_LONGEST = 1_000_000  # seconds
_BYTES_AHEAD = 512 << 20  # of contents that wait to be read


@dataclass(frozen=True)
class PixelBatch:
    """Some images in the order in which they were named.

    Attributes:
        images: What was asked for.
        pixels: Those that could be read.
        errors: For each image why it could not be read, or an empty string.
        thumbnails: For each image a small JPEG, or nothing.
    """

    images: tuple[ImageRef, ...]
    pixels: UInt8[Tensor, "B 3 S S"]
    errors: tuple[str, ...]
    thumbnails: tuple[bytes, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        """The images' names."""
        return tuple(image.name for image in self.images)


@dataclass(frozen=True)
class ImageLoader:
    """Turns paths into batches of pixels."""

    preprocessing: Preprocessing
    """The encoder's."""
    batch_size: int = 16
    """Images in a batch."""
    workers: int = 2
    """Processes; 0 reads in this one."""
    allow_truncated: bool = False
    """Whether to take what is there of a file that was cut short."""
    time_limit: float = 60.0
    """Seconds after which an image is given up; without workers there is no limit."""
    thumbnail: int = 0
    """Longest side of a small JPEG made of each image; 0 for none."""

    def __post_init__(self) -> None:
        check_minimum(self, batch_size=1, workers=0, thumbnail=0)
        if not 0 < self.time_limit <= _LONGEST:
            raise ConfigError(
                f"time_limit is {self.time_limit}; it is above 0 and at most {_LONGEST:,} seconds."
            )

    @property
    def worker_settings(self) -> worker.WorkerConfig:
        """What a process is told that does the reading."""
        return worker.WorkerConfig(
            self.preprocessing.size,
            self.preprocessing.interpolation,
            self.preprocessing.fit,
            self.allow_truncated,
            self.thumbnail,
        )

    def batches(self, sources: Iterable[str | ImageRef]) -> Iterator[PixelBatch]:
        """Yield all images, in order; at most a few batches are in memory at once.

        A worker process has one image at a time. If it dies (a decoder that crashes, memory that
        runs out) or takes longer than the limit, that image is reported as unreadable, and no
        other is touched.
        """
        images = (ImageRef(each) if isinstance(each, str) else each for each in sources)
        results = self._by_workers(images) if self.workers else map(self._read_here, images)
        while some := list(islice(results, self.batch_size)):
            yield self._collated(some)

    def _by_workers(self, images: Iterator[ImageRef]) -> Iterator[tuple[ImageRef, DecodedImage]]:
        workers = min(self.workers, os.cpu_count() or 1)
        processes: list[WorkerProcess] = []
        own, closing = threading.local(), threading.Event()

        def decode(name: str, content: bytes | None) -> DecodedImage:
            if not hasattr(own, "process"):
                own.process = WorkerProcess(self.worker_settings, self.time_limit)
                processes.append(own.process)
            found: DecodedImage = own.process.read(name, content)
            return found

        def read(image: ImageRef) -> DecodedImage:
            return self._read(image, closing, decode)

        executor = ThreadPoolExecutor(workers, thread_name_prefix="images")
        waiting: deque[tuple[ImageRef, Future[DecodedImage]]] = deque()
        try:
            ahead = self.batch_size * _BATCHES_AHEAD + workers
            held = 0
            for image in images:
                waiting.append((image, executor.submit(read, image)))
                held += _weight(image)
                while len(waiting) >= ahead or held > _BYTES_AHEAD:
                    first, result = waiting.popleft()
                    held -= _weight(first)
                    yield first, result.result()
            while waiting:
                first, result = waiting.popleft()
                yield first, result.result()
        finally:
            closing.set()
            executor.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.close()
            executor.shutdown()

    def _read_here(self, image: ImageRef) -> tuple[ImageRef, DecodedImage]:
        def decode(name: str, content: bytes | None) -> DecodedImage:
            image = name if content is None else content
            return DecodedImage(*worker.answer(self.worker_settings, image, name))

        return image, self._read(image, threading.Event(), decode)

    def _read(
        self,
        image: ImageRef,
        closing: threading.Event,
        decode: Callable[[str, bytes | None], DecodedImage],
    ) -> DecodedImage:
        """Fetch an image if need be, and decode it."""
        if image.error:
            return DecodedImage(error=image.error)
        content, error = _content(image, self.time_limit, closing)
        return DecodedImage(error=error) if error else decode(image.name, content)

    def _collated(self, items: list[tuple[ImageRef, DecodedImage]]) -> PixelBatch:
        size = self.preprocessing.size
        read = [np.frombuffer(item.pixels, np.uint8) for _, item in items if item.pixels]
        pixels = np.stack(read) if read else np.zeros((0,), np.uint8)
        return PixelBatch(
            tuple(image for image, _ in items),
            torch.from_numpy(pixels.reshape(len(read), 3, size, size)),
            tuple(item.error for _, item in items),
            tuple(item.thumbnail for _, item in items),
        )


def _weight(image: ImageRef) -> int:
    return len(image.content) if isinstance(image.content, bytes) else 0


def _content(
    image: ImageRef, time_limit: float, closing: threading.Event
) -> tuple[bytes | None, str]:
    """Return what is in an image's file, None where a worker can open it; or why it is not had."""
    fetch = image.content
    if not callable(fetch):
        return fetch, ""
    outcome: list[bytes | OSError] = []

    def run() -> None:
        try:
            outcome.append(fetch())
        except OSError as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)  # a server that never answers keeps it
    thread.start()
    deadline = time.monotonic() + time_limit
    while thread.is_alive() and time.monotonic() < deadline and not closing.is_set():
        thread.join(min(0.1, time_limit))
    if not outcome:
        return None, (
            f"{image.name} was not fetched within {time_limit:g} seconds. Try again, or raise "
            "the time limit."
        )
    (found,) = outcome
    if isinstance(found, bytes):
        return found, ""
    reason = found.strerror or str(found) or type(found).__name__
    return None, f"{image.name} cannot be fetched: {reason}. Check that it is there."
