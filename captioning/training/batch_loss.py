"""The loss of a batch, whose images several processes can share."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from captioning.datasets.batches import Batch
from captioning.features.cache import CacheRows
from captioning.features.cached_model import CachedModel
from captioning.nn.decoder import TeacherForcingOutput
from captioning.nn.features import Features
from captioning.nn.losses import (
    CaptionLoss,
    cross_entropy,
    doubly_stochastic,
    reconstruction_terms,
)
from captioning.nn.shared_draws import Rows, shared_draws
from captioning.processes import add_over_processes, process_count, process_index
from captioning.text.vocabulary import BOS, NEVER_GENERATED, SPECIALS, UNK
from captioning.training.augmented_images import AugmentedImages
from captioning.training.batch_parts import OwnBatch, select_part
from captioning.training.input_noise import apply_scheduled_sampling, apply_word_dropout
from captioning.training.self_critical import SelfCriticalObjective
from captioning.training.text_concepts import TextConcepts
from captioning.training.training_config import TrainingConfig

_BOS, _UNK = SPECIALS.index(BOS), SPECIALS.index(UNK)
_AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class BatchLoss:
    """The objective of a run, applied to one batch after the other.

    Each process computes the loss of its images. Every term is multiplied by the share of its rows
    in the whole batch, so that the sum over the processes is the loss of the whole batch.

    Args:
        cached_model: The model.
        cache: Features of the images.
        config: Objective, regularization and precision.
        self_critical: Objective that replaces the cross-entropy.
        text_concepts: Concepts of the captions without an image.
    """

    def __init__(
        self,
        cached_model: CachedModel,
        cache: CacheRows,
        config: TrainingConfig,
        self_critical: SelfCriticalObjective | None = None,
        text_concepts: TextConcepts | None = None,
    ) -> None:
        self.cached_model = cached_model
        self.cache = cache
        self.config = config
        self.self_critical = self_critical
        self.text_concepts = text_concepts
        # The cost of an encoder and of samples depends on the number of images.
        has_encoder = cached_model.tail is not None or isinstance(cache, AugmentedImages)
        self._by_words = self_critical is None and not has_encoder

    def __call__(self, batch: Batch, scheduled_sampling: float) -> CaptionLoss:
        """Return this process's part of the loss, and the number of words of all processes.

        Args:
            batch: The batch of all processes.
            scheduled_sampling: Probability of replacing a word by a prediction.
        """
        own = select_part(batch, process_index(), process_count(), by_words=self._by_words)
        dtype = _AUTOCAST[self.config.precision]
        # Autocast caches 16-bit weights without a graph in passes without gradients. Later passes
        # with gradients must not reuse them.
        cache_weights = self.self_critical is None and not self.config.scheduled_sampling
        autocast = torch.autocast(
            self.cached_model.device.type,
            dtype or torch.bfloat16,
            enabled=dtype is not None,
            cache_enabled=cache_weights,
        )
        with autocast, shared_draws(own.part):
            features = self._encode(own.batch)
            if self.self_critical is None:
                return self._cross_entropy(own, features, scheduled_sampling)
            return self._self_critical(own, features, self.self_critical, scheduled_sampling)

    def _encode(self, batch: Batch) -> Features:
        features = self.cached_model.encode(self.cache, batch.images, batch.views)
        concepts = self.cached_model.decoder.concepts
        if self.text_concepts is None or concepts is None:
            return features
        return self.text_concepts.complete(features, batch.images, concepts)

    def _self_critical(
        self,
        own: OwnBatch,
        features: Features,
        objective: SelfCriticalObjective,
        scheduled_sampling: float,
    ) -> CaptionLoss:
        batch, decoder = own.batch, self.cached_model.decoder
        found = objective.loss(decoder, features, batch.images, batch.flipped)
        assert found.reward is not None
        counted = found.words if own.image_share else 0
        words = int(add_over_processes(torch.tensor(counted, device=self.cached_model.device)))
        share = counted / words
        loss = found.loss * share
        if weight := self.config.self_critical.cross_entropy_weight:
            loss = loss + weight * self._cross_entropy(own, features, scheduled_sampling).loss
        return CaptionLoss(loss, found.nll * share, words, found.reward * own.image_share)

    def _cross_entropy(
        self, own: OwnBatch, features: Features, scheduled_sampling: float
    ) -> CaptionLoss:
        config, device, batch = self.config, self.cached_model.device, own.batch
        inputs: PackedSequence = batch.inputs.to(device)  # type: ignore[arg-type]
        image = batch.image_index.to(device)
        noisy = self._add_noise(own, features, inputs, image, scheduled_sampling)
        output = self.cached_model.decoder.teacher_forcing(features, noisy, image)
        result = cross_entropy(
            output.logits, batch.targets.to(device), label_smoothing=config.label_smoothing
        )
        rows = image if inputs.sorted_indices is None else image[inputs.sorted_indices]
        sizes = inputs.batch_sizes.tolist()
        loss = result.loss * own.token_share
        if config.doubly_stochastic_weight and output.attention is not None:
            padding = None if features.padding is None else features.padding[rows]
            penalty = doubly_stochastic(output.attention, sizes, padding)
            loss = loss + config.doubly_stochastic_weight * (penalty * own.caption_share)
        if config.reconstruction_weight and output.reconstruction is not None:
            error = self._reconstruction(own, output, features.vector[rows], sizes)
            loss = loss + config.reconstruction_weight * error
        words = len(batch.targets) if own.part is None else own.part.tokens.total
        return CaptionLoss(loss, result.nll * own.token_share, words)

    def _reconstruction(
        self,
        own: OwnBatch,
        output: TeacherForcingOutput,
        vectors: Float[Tensor, "N D"],
        sizes: list[int],
    ) -> Float[Tensor, ""]:
        """Return this process's part of the reconstruction error, a ratio of two means."""
        assert output.reconstruction is not None
        error, square = reconstruction_terms(output.reconstruction, vectors, sizes)
        if own.part is None:
            return error / square
        error, square = error * own.token_share, square * own.token_share
        errors, squares = add_over_processes(torch.stack([error, square]).detach())
        gradient = error / squares - errors * square / squares**2  # its sum over processes is 0
        return gradient + errors / squares / process_count()

    def _add_noise(
        self,
        own: OwnBatch,
        features: Features,
        inputs: PackedSequence,
        image: Int[Tensor, " N"],
        scheduled_sampling: float,
    ) -> PackedSequence:
        config = self.config
        if config.scheduled_sampling:
            with torch.no_grad():
                logits = self.cached_model.decoder.teacher_forcing(features, inputs, image).logits
            inputs = apply_scheduled_sampling(
                inputs, logits, scheduled_sampling, excluded=NEVER_GENERATED
            )
        if config.word_dropout:
            inputs = apply_word_dropout(inputs, config.word_dropout, unk=_UNK, bos=_BOS)
        if own.part is not None and (config.scheduled_sampling or config.word_dropout):
            own.part.words = self._find_words(inputs.data)
        return inputs

    def _find_words(self, tokens: Int[Tensor, " M"]) -> Rows:
        """Return the distinct words of this process among those of all processes."""
        size = self.cached_model.decoder.sizes.vocabulary_size
        counts = add_over_processes(tokens.bincount(minlength=size))
        return Rows(
            torch.searchsorted(counts.nonzero().flatten(), tokens.unique()), int((counts > 0).sum())
        )
