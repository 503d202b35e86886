"""Threads that read images, each with a worker process of its own."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from captioning.images.image_ref import ImageRef
from captioning.images.worker import DecodedImage, WorkerConfig, decode_image
from captioning.images.worker_pool import Watchdog, WorkerProcess

_Decode = Callable[[str, bytes | None, str], DecodedImage]
"""Function of the name, the content (None: read the file of this name) and the file stamp."""


class ImageReaders:
    """Reads several images at the same time, in worker processes that start when needed.

    If the decoder of an image crashes, exceeds the memory limit or the time limit, only that image
    is reported as unreadable.

    Args:
        config: What a worker process does with each image.
        workers: Number of worker processes; 0 decodes in a thread of this process, without limits.
        time_limit: Seconds per image.
    """

    def __init__(self, config: WorkerConfig, workers: int, time_limit: float) -> None:
        self.config = config
        self.time_limit = time_limit
        self._in_process = not workers
        self._processes: list[WorkerProcess] = []
        self._thread_local = threading.local()
        self._closing = threading.Event()
        self._watchdog = Watchdog()
        self._executor = ThreadPoolExecutor(max(1, workers), thread_name_prefix="images")

    def submit(self, image: ImageRef) -> "Future[DecodedImage]":
        """Read an image as soon as a thread is free."""
        if self._in_process:
            return self._executor.submit(read_in_process, image, self.config, self.time_limit)
        return self._executor.submit(
            _read, image, self.time_limit, self._closing, self._decode_in_worker
        )

    def close(self) -> None:
        """Cancel what has not started, and end the worker processes."""
        self._closing.set()
        self._executor.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.close()
        self._executor.shutdown()
        self._watchdog.close()

    def _decode_in_worker(self, name: str, content: bytes | None, stamp: str) -> DecodedImage:
        if not hasattr(self._thread_local, "process"):
            process = WorkerProcess(self.config, self.time_limit, self._watchdog)
            self._thread_local.process = process
            self._processes.append(process)
        decoded: DecodedImage = self._thread_local.process.read(name, content, stamp)
        return decoded


def read_in_process(image: ImageRef, config: WorkerConfig, time_limit: float) -> DecodedImage:
    """Fetch and decode an image in this process, without a limit for decoding.

    Args:
        image: The image.
        config: What to do with it.
        time_limit: Seconds for fetching it.
    """

    def decode(name: str, content: bytes | None, stamp: str) -> DecodedImage:
        return decode_image(config, name if content is None else content, name, stamp)

    return _read(image, time_limit, threading.Event(), decode)


def _read(
    image: ImageRef, time_limit: float, closing: threading.Event, decode: _Decode
) -> DecodedImage:
    """Fetch the content of an image if it is remote, and decode it."""
    if image.error:
        return DecodedImage(error=image.error)
    started = time.monotonic()
    content, error = _fetch_content(image, time_limit, closing)
    if error:
        return DecodedImage(error=error)
    decoded = decode(image.name, content, image.stamp)
    if image.on_digest is not None and not decoded.error:
        image.on_digest(decoded.digest or None)
    return replace(decoded, seconds=time.monotonic() - started)


def _fetch_content(
    image: ImageRef, time_limit: float, closing: threading.Event
) -> tuple[bytes | None, str]:
    """Return the content of an image, None if it is a local file; and an error text."""
    fetch = image.content
    if not callable(fetch):
        return fetch, ""
    outcome: list[bytes | OSError] = []

    def run() -> None:
        try:
            outcome.append(fetch())
        except OSError as error:
            outcome.append(error)

    # A daemon: a server that never answers would keep the process alive.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    deadline = time.monotonic() + time_limit
    while thread.is_alive() and time.monotonic() < deadline and not closing.is_set():
        thread.join(min(0.1, time_limit))
    if not outcome:
        return None, (
            f"cannot fetch '{image.name}': no answer within {time_limit:g} seconds. Try again, or "
            "raise the time limit."
        )
    (fetched,) = outcome
    if isinstance(fetched, bytes):
        return fetched, ""
    return None, f"cannot fetch '{image.name}': {fetched}"
