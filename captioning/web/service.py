"""Captions and explanations of uploaded images, for any number of requests at a time."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from torch import Tensor

from captioning.decoding import SearchMethod
from captioning.errors import ConfigError, ImageError
from captioning.images.image_readers import ImageReaders
from captioning.images.image_ref import ImageRef
from captioning.images.worker import DecodedImage, WorkerConfig
from captioning.inference.captioner import Captioner
from captioning.inference.results import CaptionResult
from captioning.inference.word_steps import (
    WordStep,
    encode_image,
    find_concepts,
    trace_words,
)
from captioning.web.batching import ModelThread
from captioning.web.limits import MAX_WORDS, ServerLimits
from captioning.web.uploads import Budget, SearchRequest

THUMBNAIL_SIZE = 960
"""Longest side of the small copies of images that the page shows, in pixels."""


class Metrics:
    """Counters of the server, in the format of Prometheus."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            *("captioning_requests", "Requests by path and status.", ["path", "status"]),
            registry=self.registry,
        )
        self.seconds = Histogram(
            *("captioning_request_seconds", "Time from request to response.", ["path"]),
            registry=self.registry,
        )
        self.images = Counter(
            *("captioning_images", "Images by outcome: captioned or failed.", ["outcome"]),
            registry=self.registry,
        )
        self.batches = Histogram(
            *("captioning_batch_images", "Images that the model captions at once."),
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )
        self.waiting = Gauge(
            *("captioning_waiting_requests", "Requests that are not answered yet."),
            registry=self.registry,
        )


@dataclass(frozen=True)
class TracedCaption:
    """Steps of the model for a caption of an image, and the concepts of the image.

    Attributes:
        words: The words of the caption.
        steps: The state of the model before each word, and before the end.
        concepts: Words that the CNN recognizes, with their strengths.
        thumbnail: A small JPEG of the image.
    """

    words: tuple[str, ...]
    steps: tuple[WordStep, ...]
    concepts: tuple[tuple[str, float], ...]
    thumbnail: bytes


class CaptionService:
    """Reads images in worker processes, and captions them in the thread of the model.

    Args:
        captioner: The captioner. No other code may use it until :meth:`close`.
        limits: Limits of the server.
    """

    def __init__(self, captioner: Captioner, limits: ServerLimits | None = None) -> None:
        self.captioner = captioner
        self.limits = limits = limits or ServerLimits()
        self.metrics = Metrics()
        self.budget = Budget(limits)
        self.metrics.waiting.set_function(lambda: self.budget.requests)
        preprocessing = captioner.generator.preprocessing
        self._size = preprocessing.size
        self.readers = ImageReaders(
            WorkerConfig(
                preprocessing.size,
                preprocessing.interpolation,
                preprocessing.fit,
                thumbnail=THUMBNAIL_SIZE,
            ),
            limits.workers,
            limits.max_seconds,
        )
        self.model = ModelThread(
            captioner, batch_size=limits.batch_size, on_batch=self.metrics.batches.observe
        )

    @property
    def search(self) -> SearchMethod:
        """The search of the model."""
        return self.captioner.checkpoint.search

    def warm_up(self) -> "Future[object]":
        """Caption and explain a black image, so that the first request is fast."""
        black = torch.zeros(3, self._size, self._size, dtype=torch.uint8)
        self.model.caption(black, self.search, 0)
        return self.model.call(partial(trace_words, self.captioner, black, ()))

    def close(self) -> None:
        """End the worker processes and the thread; requests that wait are cancelled."""
        self.model.close()
        self.readers.close()

    async def caption(
        self, images: Sequence[ImageRef], request: SearchRequest
    ) -> list[CaptionResult]:
        """Caption uploaded images; one that cannot be read has a result with an ``error``."""
        return await asyncio.gather(*(self.caption_one(image, request) for image in images))

    async def caption_one(self, image: ImageRef, request: SearchRequest) -> CaptionResult:
        """Caption one image; if it cannot be read, the result has an ``error``."""
        decoded = await self.read(image)
        if decoded.error:
            self.metrics.images.labels("failed").inc()
            return CaptionResult(image.name, error=decoded.error)
        future = self.model.caption(self._pixels(decoded), request.search, request.seed)
        captions = await asyncio.wrap_future(future)
        self.metrics.images.labels("captioned").inc()
        return CaptionResult(image.name, captions)

    async def explain(self, image: ImageRef, caption: str | None) -> TracedCaption:
        """Explain a caption of an uploaded image.

        Args:
            image: The image.
            caption: The caption; None for the model's own.

        Raises:
            ImageError: The image cannot be read.
            ConfigError: The caption is too long, or the model does not know one of its words.
        """
        decoded = await self.read(image)
        if decoded.error:
            raise ImageError(decoded.error)
        pixels = self._pixels(decoded)
        if caption is None:
            captions = await asyncio.wrap_future(self.model.caption(pixels, self.search, 0))
            words = captions[0].words
        else:
            words = tuple(self.captioner.checkpoint.vocabulary.tokenizer.split(caption))
        if len(words) > MAX_WORDS:
            raise ConfigError(f"the caption has {len(words):,} words; the limit is {MAX_WORDS}.")
        call = self.model.call(partial(self._trace, pixels, words))
        steps, concepts = await asyncio.wrap_future(call)
        return TracedCaption(words, steps, concepts, decoded.thumbnail)

    def _trace(
        self, pixels: Tensor, words: tuple[str, ...]
    ) -> tuple[tuple[WordStep, ...], tuple[tuple[str, float], ...]]:
        features = encode_image(self.captioner, pixels)
        steps = trace_words(self.captioner, features, words)
        return tuple(steps), tuple(find_concepts(self.captioner, features))

    async def read(self, image: ImageRef) -> DecodedImage:
        """Decode an image in a worker process."""
        return await asyncio.wrap_future(self.readers.submit(image))

    def _pixels(self, decoded: DecodedImage) -> Tensor:
        values = torch.frombuffer(bytearray(decoded.pixels), dtype=torch.uint8)
        return values.reshape(3, self._size, self._size)
