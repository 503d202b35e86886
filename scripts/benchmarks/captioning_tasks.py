"""What the child processes measure: encoder, decoder, reading, and matrix products."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from benchmarks.prepared import Prepared, timed
from benchmarks.products import Products, Weights, search_products
from captioning.images.loader import ImageLoader
from captioning.inference.captioner import Captioner

Settings = Mapping[str, Any]

_READ_AHEAD = 4  # batches; more than what the loader reads while nothing is asked for


class Subject:
    """A captioner whose encoder can be called, timed and replaced.

    Args:
        settings: ``model``, ``backend``, ``precision``, ``search``, ``images``, ``batch_size`` and
            ``workers``.
    """

    def __init__(self, settings: Settings) -> None:
        given = {name: settings[name] for name in ("backend", "precision") if settings.get(name)}
        self.captioner = Captioner.from_pretrained(settings.get("model"), device="cpu", **given)
        self.checkpoint = self.captioner.checkpoint
        self.search = replace(self.checkpoint.search, **settings.get("search", {}))
        self.images = settings.get("images", [])
        names = ("batch_size", "workers")
        self.loader = ImageLoader(
            self.checkpoint.model.encoder.preprocessing,
            **{name: settings[name] for name in names if settings.get(name)},
        )
        self.generator = self.captioner.generator
        # Checkouts from before there were backends call the encoder of the model.
        backend = getattr(self.generator, "_backend", None)
        self._backend_model = backend.models[0] if backend else None
        resolved = getattr(self.captioner, "backend", None)
        self.precision = getattr(resolved, "precision", "float32")
        self.facts = {"backend": str(resolved)} if resolved else {}

    def batches(self) -> Iterator[Tensor]:
        """Yield the pixels of the images."""
        for batch in self.loader.batches(self.images):
            yield batch.pixels

    @property
    def encode(self) -> Callable[[Tensor], Any]:
        """The encoder."""
        model = self._backend_model
        return self.checkpoint.model.encoder if model is None else model.encode

    @encode.setter
    def encode(self, function: Callable[[Tensor], Any]) -> None:
        if self._backend_model is None:
            self.checkpoint.model.encoder.forward = function
        else:
            object.__setattr__(self._backend_model, "encode", function)  # it is frozen

    @property
    def step(self) -> Callable[..., Any]:
        """The step function of the search."""
        return self.generator._step

    @step.setter
    def step(self, function: Callable[..., Any]) -> None:
        self.generator._step = function

    def generate(self, pixels: Tensor) -> object:
        """Return the captions of a batch."""
        return self.generator.generate(pixels, self.search)


def read(settings: Settings) -> Prepared:
    """Read the images without a network, with readers that have started and are busy."""
    subject = Subject(settings)
    endless = subject.loader.batches(cycle(subject.images))
    count = -(-len(subject.images) // subject.loader.batch_size)

    def take(batches: int) -> None:
        for _ in range(batches):
            next(endless)

    units = count * subject.loader.batch_size
    return Prepared(lambda: take(count), units, before=lambda: take(_READ_AHEAD))


def encode(settings: Settings) -> Prepared:
    """Encode images that are in memory."""
    subject = Subject(settings)
    batches = list(subject.batches())

    @torch.inference_mode()
    def run() -> None:
        for batch in batches:
            subject.encode(batch)

    return Prepared(run, len(subject.images), facts=subject.facts)


def decode(settings: Settings) -> Prepared:
    """Generate captions from features that are in memory: all of the captioner but the encoder."""
    subject = Subject(settings)
    batches = list(subject.batches())
    with torch.inference_mode():
        features = [subject.encode(batch) for batch in batches]
    stages: dict[str, float] = {}
    subject.step = timed(subject.step, stages, "decoder steps")
    reranker = subject.checkpoint.reranker
    if reranker is not None:
        _time_reranking(subject, stages)

    def run() -> None:
        for batch, own in zip(batches, features, strict=True):
            subject.encode = lambda pixels, own=own: own
            subject.generate(batch)

    return Prepared(run, len(subject.images), stages, subject.facts)


def generate(settings: Settings) -> Prepared:
    """Generate captions from images that are in memory: encoder and search."""
    subject = Subject(settings)
    batches = list(subject.batches())

    def run() -> None:
        for batch in batches:
            subject.generate(batch)

    return Prepared(run, len(subject.images), facts=subject.facts)


def _time_reranking(subject: Subject, stages: dict[str, float]) -> None:
    reranker = subject.checkpoint.reranker
    prepare = reranker.prepare

    def prepare_timed(vectors: Tensor) -> Callable[..., Any]:
        return timed(prepare(vectors), stages, "reranking")

    stages["reranking"] = 0.0
    object.__setattr__(reranker, "prepare", prepare_timed)


def products(settings: Settings) -> Prepared:
    """Compute the matrix products of the decoder alone, with the rows of a real search."""
    subject = Subject(settings)
    batches = list(subject.batches())
    step_rows: list[int] = []
    step = subject.step

    def counted(tokens: Tensor, state: Any) -> Any:
        step_rows.append(len(tokens))
        return step(tokens, state)

    subject.step = counted
    for batch in batches:
        subject.generate(batch)
    weights = Weights.of(subject.checkpoint.model.decoder)
    positions = subject.checkpoint.model.encoder.positions
    dtype = torch.float32 if subject.precision == "float32" else torch.bfloat16
    own = Products(search_products(weights, step_rows, list(map(len, batches)), positions), dtype)
    gflop = own.operations / 1e9 / len(subject.images)
    facts = {"gflop_per_unit": gflop, "dtype": str(dtype).removeprefix("torch.")}
    return Prepared(own.run, len(subject.images), facts=facts)
