"""Caption generation: a batch of images in, captions with log-probabilities out."""

import copy
import math
import sys
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from captioning.checkpoint import Checkpoint
from captioning.decoding import BeamSearch, Sampling, SearchMethod
from captioning.decoding.constraints import TokenConstraints
from captioning.decoding.ensemble import EnsembleState, ensemble
from captioning.decoding.hypothesis import Hypothesis
from captioning.decoding.search import search
from captioning.errors import ConfigError
from captioning.images.preprocessing import Preprocessing
from captioning.inference.backend_config import PLAIN, BackendConfig, ResolvedBackend
from captioning.inference.backends import load_backend
from captioning.inference.results import Caption
from captioning.nn.encoder import Encoder
from captioning.nn.external_encoder import ExternalEncoder
from captioning.nn.features import Features
from captioning.text.vocabulary import Vocabulary

if TYPE_CHECKING:  # the scorer that consensus reranking needs takes a second to import
    from captioning.reranking.consensus import Consensus


class CaptionGenerator:
    """Encoder, decoder, search and reranking for batches of pixels or features.

    Args:
        checkpoints: One model, or the models of an ensemble. The first one provides the
            vocabulary, the default search and n-gram reranking.
        seed: Seed of sampling.
        consensus: Captioned images for consensus reranking.
        backend: Library and precision that run the models.

    Raises:
        ConfigError: The models of an ensemble differ in vocabulary, preprocessing or device, or
            the backend cannot run them.
    """

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        *,
        seed: int = 0,
        consensus: "Consensus | None" = None,
        backend: BackendConfig = PLAIN,
    ) -> None:
        for number, checkpoint in enumerate(checkpoints[1:], 2):
            _check_ensemble_member(checkpoints[0], checkpoint, number)
        self._first = checkpoints[0]
        self._backend = load_backend(backend, checkpoints)
        self._step = ensemble([model.decoder.step for model in self._backend.models])
        self._seed = seed
        self._consensus = consensus
        self._max_batch = sys.maxsize  # images; lowered when the device runs out of memory

    @property
    def device(self) -> torch.device:
        """The device of the models."""
        return self._first.model.decoder.embedding.weight.device

    @property
    def backend(self) -> ResolvedBackend:
        """The library and the precision that run the models."""
        return self._backend.resolved

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of the models."""
        return self._first.model.encoder.preprocessing

    def describe(self) -> dict[str, str]:
        """Return the parts of the models, for displays."""
        decoder = self._first.model.decoder.config
        return {
            "encoder": self._first.model.encoder.config.name,
            "decoder": decoder.cell + (" with attention" if decoder.uses_grid else ""),
            "vocabulary": f"{self._first.model.decoder.sizes.vocabulary_size:,} words",
            "search": f"{self._first.search!r:.300}",
            "models": str(len(self._backend.models)),
            "device": str(self.device),
            "backend": str(self.backend),
        }

    def with_consensus(self, consensus: "Consensus") -> "CaptionGenerator":
        """Return a generator with the same models and consensus reranking."""
        reranking = copy.copy(self)
        reranking._consensus = consensus
        return reranking

    def with_seed(self, seed: int) -> "CaptionGenerator":
        """Return a generator with the same models and another seed of sampling."""
        seeded = copy.copy(self)
        seeded._seed = seed
        return seeded

    def check_search(self, method: SearchMethod) -> None:
        """Check that the model supports a search.

        Raises:
            SearchError: ``method`` is not a search method.
            ConfigError: The search names a word that the model does not know. Or it has a
                ``rerank_weight``, and the model has no n-gram reranker. Or it finds only one
                hypothesis, and consensus reranking needs several.
        """
        self._resolve(method)

    def _resolve(self, method: SearchMethod) -> TokenConstraints:
        """Check a search as :meth:`check_search` does, and return its constraints."""
        constraints = TokenConstraints.resolve(method, self._first.vocabulary)
        if method.reranks and self._first.reranker is None:
            raise ConfigError(
                "the search has a rerank_weight, but this model has no n-gram reranker. Set "
                "rerank_weight to 0, or use a model that has one."
            )
        if self._consensus is not None:
            self._consensus.widen_search(method)
        return constraints

    def generate(
        self, images: UInt8[Tensor, "B 3 S S"] | Features, method: SearchMethod | None = None
    ) -> list[tuple[Caption, ...]]:
        """Return the captions of each image, best first.

        If the device runs out of memory, this batch and all later ones are split.

        Args:
            images: Images as the encoder expects them, or their features for models without one.
            method: The search; None for the model's default.
        """
        method = self._first.search if method is None else method
        captions: list[tuple[Caption, ...]] = []
        while len(captions) < len(images):
            chunk = images[len(captions) : len(captions) + self._max_batch]
            try:
                captions += self._generate_chunk(chunk, method)
            except RuntimeError as error:
                if len(chunk) == 1 or "out of memory" not in str(error):
                    raise
                self._max_batch = len(chunk) // 2
            if self._max_batch < len(images) and torch.cuda.is_available():
                torch.cuda.empty_cache()
        return captions

    @torch.inference_mode()
    def _generate_chunk(
        self, images: UInt8[Tensor, "B 3 S S"] | Features, method: SearchMethod
    ) -> list[tuple[Caption, ...]]:
        constraints = self._resolve(method)
        vocabulary, reranker = self._first.vocabulary, self._first.reranker
        models = self._backend.models
        if isinstance(images, Features):
            features = [images.to(self.device)] * len(models)
        else:
            features = [model.encode(images) for model in models]
        states = [model.decoder.start(seen) for model, seen in zip(models, features, strict=True)]
        beams = search(
            self._step,
            EnsembleState(tuple(states)),
            method if self._consensus is None else self._consensus.widen_search(method),
            constraints,
            generator=torch.Generator().manual_seed(self._seed),
            keys=image_keys(images) if isinstance(method, Sampling) else None,
            rerank=None if reranker is None else reranker.prepare(features[0].vector),
        )
        if self._consensus is not None:
            beams = [
                self._consensus.rerank(v, beam, [vocabulary.decode(h.tokens) for h in beam])
                for v, beam in zip(features[0].vector.cpu(), beams, strict=True)
            ]
            if isinstance(method, BeamSearch):
                beams = [beam[: method.n] for beam in beams]
        return [tuple(make_caption(each, vocabulary) for each in beam) for beam in beams]


def make_caption(hypothesis: Hypothesis, vocabulary: Vocabulary) -> Caption:
    """Return a hypothesis as a caption in words."""
    words = vocabulary.decode(hypothesis.tokens)
    return Caption(
        text=vocabulary.tokenizer.join(words),
        words=tuple(words),
        log_prob=hypothesis.log_prob if math.isfinite(hypothesis.log_prob) else -math.inf,
        finished=hypothesis.finished,
        word_log_probs=hypothesis.token_log_probs[: len(words)],
    )


def image_keys(images: UInt8[Tensor, "B 3 S S"] | Features) -> Int[Tensor, " B"]:
    """Return a number for each image, so that its samples do not depend on its batch."""
    if isinstance(images, Features):
        assert images.grid is not None
        assert images.padding is not None
        rows = [grid[~padding] for grid, padding in zip(images.grid, images.padding, strict=True)]
    else:
        rows = list(images)
    return torch.tensor([zlib.crc32(row.numpy().tobytes()) for row in rows])


def _describe_input(encoder: Encoder) -> Preprocessing | str:
    if isinstance(encoder, ExternalEncoder):
        return f"external features of {encoder.feature_size:,} values"
    return encoder.preprocessing


def _check_ensemble_member(first: Checkpoint, other: Checkpoint, number: int) -> None:
    """Refuse a model that cannot be averaged with the first one."""
    if other.vocabulary != first.vocabulary:
        raise ConfigError(
            f"model {number} of the ensemble has another vocabulary ({len(other.vocabulary)} "
            f"words) than model 1 ({len(first.vocabulary)} words). Use models that were trained "
            "from the same model."
        )
    expected, found = (_describe_input(each.model.encoder) for each in (first, other))
    if found != expected:
        raise ConfigError(
            f"model {number} of the ensemble has another preprocessing than model 1: {found} "
            f"instead of {expected}. Use models with the same preprocessing."
        )
    devices = [each.model.decoder.embedding.weight.device for each in (first, other)]
    if devices[0] != devices[1]:
        raise ConfigError(
            f"model {number} of the ensemble is on {devices[1]} and model 1 on {devices[0]}. Load "
            "both on one device."
        )
