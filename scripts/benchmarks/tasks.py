"""What the child processes measure: encoder, decoder, reading, and matrix products."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.worker import Prepared, timed
from captioning.images.loader import ImageLoader
from captioning.inference.captioner import Captioner

Settings = Mapping[str, Any]


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
        self.loader = ImageLoader(
            self.checkpoint.model.encoder.preprocessing,
            settings.get("batch_size", 16),
            settings.get("workers", 2),
        )
        self.generator = self.captioner._generator
        self._backend = getattr(self.generator, "backend", None)

    def batches(self) -> Iterator[Tensor]:
        """Yield the pixels of the images."""
        for batch in self.loader.batches(self.images):
            yield batch.pixels

    @property
    def encode(self) -> Callable[[Tensor], Any]:
        """The encoder."""
        return self._backend.encode if self._backend else self.checkpoint.model.encoder

    @encode.setter
    def encode(self, function: Callable[[Tensor], Any]) -> None:
        if self._backend:
            self._backend.encode = function
        else:
            self.checkpoint.model.encoder.forward = function

    @property
    def step(self) -> Callable[..., Any]:
        """The step function of the search."""
        return self._backend.step if self._backend else self.generator._step

    @step.setter
    def step(self, function: Callable[..., Any]) -> None:
        if self._backend:
            self._backend.step = function
        else:
            self.generator._step = function

    def generate(self, pixels: Tensor) -> object:
        """Return the captions of a batch."""
        return self.generator.generate(pixels, self.search)


def read(settings: Settings) -> Prepared:
    """Read the images without a network."""
    subject = Subject(settings)
    return Prepared(lambda: sum(map(len, subject.batches())), len(subject.images))


def encode(settings: Settings) -> Prepared:
    """Encode images that are in memory."""
    subject = Subject(settings)
    batches = list(subject.batches())

    @torch.inference_mode()
    def run() -> None:
        for batch in batches:
            subject.encode(batch)

    return Prepared(run, len(subject.images))


def decode(settings: Settings) -> Prepared:
    """Generate captions from features that are in memory: all of the captioner but the encoder."""
    subject = Subject(settings)
    batches = list(subject.batches())
    features = _store_features(subject, batches)
    stages: dict[str, float] = {}
    subject.step = timed(subject.step, stages, "decoder steps")
    reranker = subject.checkpoint.reranker
    if reranker is not None:
        _time_reranking(subject, stages)

    def run() -> None:
        for batch, own in zip(batches, features, strict=True):
            subject.encode = lambda pixels, own=own: own
            subject.generate(batch)

    return Prepared(run, len(subject.images), stages)


def _store_features(subject: Subject, batches: list[Tensor]) -> list[Any]:
    with torch.inference_mode():
        return [subject.encode(batch) for batch in batches]


def _time_reranking(subject: Subject, stages: dict[str, float]) -> None:
    reranker = subject.checkpoint.reranker
    prepare = reranker.prepare

    def prepare_timed(vectors: Tensor) -> Callable[..., Any]:
        return timed(prepare(vectors), stages, "reranking")

    stages["reranking"] = 0.0
    object.__setattr__(reranker, "prepare", prepare_timed)


def products(settings: Settings) -> Prepared:
    """Compute the matrix products of the decoder, and nothing else.

    The rows are those of the steps of a real search. Products that are computed once per word of
    the vocabulary are left out, and so are the sums of the attention, which use each of their
    values once.
    """
    subject = Subject(settings)
    batches = list(subject.batches())
    calls: list[int] = []
    step = subject.step

    def counted(tokens: Tensor, state: Any) -> Any:
        calls.append(len(tokens))
        return step(tokens, state)

    subject.step = counted
    for batch in batches:
        subject.generate(batch)
    dtype = torch.bfloat16 if settings.get("precision") in ("bfloat16", "int8") else torch.float32
    decoder = subject.checkpoint.model.decoder
    positions = subject.checkpoint.model.encoder.positions
    shapes = [(rows, weight) for rows in calls for weight in step_weights(decoder)]
    for batch in batches:
        shapes += [(len(batch), weight) for weight in image_weights(decoder)]
        shapes += [(len(batch) * positions, weight) for weight in grid_weights(decoder)]
    weights = {id(weight): weight.detach().to(dtype) for _, weight in shapes}
    inputs = {
        (rows, weight.shape[1]): torch.randn(rows, weight.shape[1]).to(dtype)
        for rows, weight in shapes
    }

    @torch.inference_mode()
    def run() -> None:
        for rows, weight in shapes:
            torch.nn.functional.linear(inputs[rows, weight.shape[1]], weights[id(weight)])

    operations = sum(2.0 * rows * weight.numel() for rows, weight in shapes)
    facts = {"gflop_per_unit": round(operations / 1e9 / len(subject.images), 4),
             "dtype": str(dtype).removeprefix("torch.")}  # fmt: skip
    return Prepared(run, len(subject.images), facts=facts)


_IMAGE = ("W_vh", "W_vx", "W_v0", "W_vr")
_GRID = ("W_a", "W_ae")
_WORD = ("embedding", "W_ee", "W_xr", "core.cell.W_xh", "core.memory.W_xh", "W_uv")


def step_weights(decoder: torch.nn.Module) -> list[Tensor]:
    """Return the matrices that every row of every step is multiplied by."""
    once = (*_IMAGE, *_GRID, *_WORD, "w_e")
    own = [w for name, w in _matrices(decoder) if not _is_one_of(name, once)]
    tied = decoder.W_rw.weight is decoder.embedding.weight
    return [*own, decoder.W_rw.weight] if tied else own


def image_weights(decoder: torch.nn.Module) -> list[Tensor]:
    """Return the matrices that the vector of each image is multiplied by."""
    return [w for name, w in _matrices(decoder) if _is_one_of(name, _IMAGE)]


def grid_weights(decoder: torch.nn.Module) -> list[Tensor]:
    """Return the matrices that each grid position of each image is multiplied by."""
    return [w for name, w in _matrices(decoder) if _is_one_of(name, _GRID)]


def _matrices(decoder: torch.nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, weight) for name, weight in decoder.named_parameters() if weight.ndim == 2]


def _is_one_of(name: str, parts: tuple[str, ...]) -> bool:
    """Return whether a parameter is one of the layers, which are named by their last words."""
    layer = name.removesuffix(".weight")
    return any(layer == part or layer.endswith(f".{part}") for part in parts)


TASKS: dict[str, Callable[[Settings], Prepared]] = {
    "read": read,
    "encode": encode,
    "decode": decode,
    "products": products,
}
