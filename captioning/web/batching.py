"""The thread that owns the model: captions of simultaneous requests are computed in batches."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captioning.decoding import SearchMethod
from captioning.inference.captioner import Captioner
from captioning.inference.results import Caption


@dataclass(frozen=True)
class _Task:
    """Work that waits for the thread."""

    argument: Any
    """Pixels of an image, or a function."""
    key: tuple[SearchMethod, int] | None
    """Search and seed, which the images of a batch have in common; None for a function."""
    future: "Future[Any]"


class ModelThread:
    """Runs a captioner in one thread, for any number of callers.

    When the thread is free, it takes the first image that waits, and all other waiting images with
    the same search and seed, as one batch.

    Args:
        captioner: The captioner. No other code may use it until :meth:`close`.
        batch_size: Largest number of images in a batch.
        on_batch: Called with the number of images in each batch.
    """

    def __init__(
        self,
        captioner: Captioner,
        *,
        batch_size: int,
        on_batch: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.captioner = captioner
        self._batch_size = batch_size
        self._on_batch = on_batch
        self._tasks: deque[_Task] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread accepts work."""
        return self._thread.is_alive() and not self._closed

    def caption(
        self, pixels: Tensor, search: SearchMethod, seed: int
    ) -> "Future[tuple[Caption, ...]]":
        """Caption one image.

        Args:
            pixels: Pixels ``(3, S, S)``, as :meth:`Captioner.read_pixels` returns them.
            search: The search.
            seed: Seed of sampling.
        """
        return self._add(pixels, (search, seed))

    def call(self, function: Callable[[], Any]) -> "Future[Any]":
        """Call a function that uses the captioner."""
        return self._add(function, None)

    def close(self) -> None:
        """Cancel what has not started, and end the thread."""
        with self._changed:
            self._closed = True
            while self._tasks:
                self._tasks.popleft().future.cancel()
            self._changed.notify()
        self._thread.join()

    def _add(self, argument: Any, key: tuple[SearchMethod, int] | None) -> "Future[Any]":
        future: Future[Any] = Future()
        with self._changed:
            if self._closed:
                future.cancel()
            else:
                self._tasks.append(_Task(argument, key, future))
                self._changed.notify()
        return future

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._tasks or self._closed)
                if self._closed:
                    return
                batch = self._take_batch()
            self._finish(batch)

    def _take_batch(self) -> list[_Task]:
        """Remove the first task, and all that can be computed with it, from the queue."""
        first = self._tasks.popleft()
        batch: list[_Task] = [first]
        others: list[_Task] = []
        for task in self._tasks:
            fits = first.key is not None and task.key == first.key
            (batch if fits and len(batch) < self._batch_size else others).append(task)
        self._tasks = deque(others)
        return batch

    def _finish(self, batch: list[_Task]) -> None:
        """Compute the results of tasks. Tasks that a caller has cancelled are dropped."""
        batch = [task for task in batch if task.future.set_running_or_notify_cancel()]
        if not batch:
            return
        try:
            results = self._compute(batch)
        except BaseException as error:  # the callers get it, and the thread continues
            for task in batch:
                task.future.set_exception(error)
        else:
            for task, result in zip(batch, results, strict=True):
                task.future.set_result(result)

    def _compute(self, batch: list[_Task]) -> list[Any]:
        key = batch[0].key
        if key is None:
            return [batch[0].argument()]
        self._on_batch(len(batch))
        search, seed = key
        pixels = torch.stack([task.argument for task in batch])
        return self.captioner.generator.with_seed(seed).generate(pixels, search)
