"""The training loop over batches of captions and image features."""

import copy
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.optim.swa_utils import get_ema_multi_avg_fn

from captioning.datasets.batches import Batch, CaptionDataset
from captioning.errors import TrainingError
from captioning.features.cache import CacheRows
from captioning.features.cached_model import CachedModel
from captioning.nn.decoder import Decoder
from captioning.nn.features import Features
from captioning.nn.losses import (
    CaptionLoss,
    cross_entropy,
    doubly_stochastic,
    reconstruction_error,
)
from captioning.nn.split_encoder import EncoderTail
from captioning.text.vocabulary import BOS, NEVER_GENERATED, SPECIALS, UNK
from captioning.training.augmented_images import AugmentedImages
from captioning.training.callback import Progress, TrainingSummary
from captioning.training.input_noise import apply_scheduled_sampling, apply_word_dropout
from captioning.training.optimizer import Schedule, create_optimizer
from captioning.training.random_state import RandomState
from captioning.training.self_critical import SelfCriticalObjective
from captioning.training.step_sums import StepSums, TimedRows
from captioning.training.text_concepts import TextConcepts
from captioning.training.training_config import TrainingConfig

_BOS, _UNK = SPECIALS.index(BOS), SPECIALS.index(UNK)


@dataclass
class _Position:
    """Number of finished epochs, batches of the current epoch, and steps of all epochs.

    ``sums`` are those of the epoch, ``unlogged`` those since the last ``log_every`` steps.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    sums: StepSums = field(default_factory=StepSums)
    unlogged: StepSums = field(default_factory=StepSums)


class Trainer:
    """Trains a decoder, and optionally the last encoder stages, on cached features.

    A run that is resumed from :meth:`state_dict` ends with the same weights as an uninterrupted
    run: the order of the batches depends only on the seed and the epoch, and the state contains
    the random generators.

    Args:
        decoder: Trained in place.
        dataset: Captions.
        cache: Features of the images, in the order of the dataset. A caption whose image index is
            beyond the last row has no image.
        config: Optimizer, regularization, and augmentation.
        tail: Last encoder stages, trained in place. Their input is the cached features.
        self_critical: Objective that replaces the cross-entropy.
        text_concepts: Concepts of the captions without an image, for a decoder with concepts.
    """

    def __init__(
        self,
        decoder: Decoder,
        dataset: CaptionDataset,
        cache: CacheRows,
        config: TrainingConfig,
        *,
        tail: EncoderTail | None = None,
        self_critical: SelfCriticalObjective | None = None,
        text_concepts: TextConcepts | None = None,
    ) -> None:
        self.text_concepts = text_concepts
        self.cached_model = CachedModel(decoder, tail)
        self.dataset = dataset
        self.reads = TimedRows(cache.pixels if isinstance(cache, AugmentedImages) else cache)
        self.cache: CacheRows = self.reads
        if isinstance(cache, AugmentedImages):  # the time of its encoder is not spent on reading
            self.cache = AugmentedImages(self.reads, cache.encoder)
        self.config = config
        self.self_critical = self_critical
        self.optimizer = create_optimizer(self.cached_model, config)
        self.ema = copy.deepcopy(self.cached_model) if config.ema_decay else None
        self.position = _Position()
        batches = dataset.batch_count(config.batch_size, config.captions_per_image)
        per_epoch = math.ceil(batches / config.accumulation_steps)
        self.steps = min(per_epoch * config.epochs, config.max_steps or sys.maxsize)
        self.schedule = Schedule(config, steps=self.steps, steps_per_epoch=per_epoch)
        self._random = RandomState.from_seed(config.seed, self.cached_model.device)

    @property
    def finished(self) -> bool:
        """Whether all epochs or the maximum number of steps are done."""
        position = self.position
        out_of_steps = position.step >= self.steps and position.batch == 0
        return out_of_steps or position.epoch >= self.config.epochs

    @property
    def model_to_save(self) -> CachedModel:
        """The model to validate and save: the moving average if there is one."""
        return self.ema or self.cached_model

    def train_epoch(
        self,
        *,
        on_step: Callable[[Progress], None] = lambda progress: None,
        on_log: Callable[[TrainingSummary], None] = lambda summary: None,
        save_state: Callable[[], None] = lambda: None,
    ) -> TrainingSummary:
        """Train to the end of the current epoch, or to the last step of the run.

        Args:
            on_step: Called after each step.
            on_log: Called every ``log_every`` steps with their statistics.
            save_state: Called every ``save_every`` steps. May read :meth:`state_dict`.

        Raises:
            TrainingError: The loss or the gradient is not finite.
        """
        config, position = self.config, self.position
        batches = self.dataset.batches(
            config.batch_size,
            per_image=config.captions_per_image,
            views=self.cache.views if config.hflip else 1,
            seed=config.seed,
            epoch=position.epoch,
        )
        self.cached_model.train()
        if self.cached_model.tail is not None:
            self.cached_model.tail.requires_grad_(position.epoch + 1 >= config.encoder_start_epoch)
        self._random.restore()
        remaining = islice(batches, position.batch, None)  # after an interruption
        groups = _group(remaining, config.accumulation_steps)
        start = time.perf_counter()
        self.reads.seconds = 0.0
        for group in islice(groups, max(0, self.steps - position.step)):  # the limit can be lowered
            waited = time.perf_counter() - start
            sums = self._train_step(group)
            self._random.capture()
            sums.data_seconds = waited + self.reads.seconds
            sums.seconds = time.perf_counter() - start
            position.sums.add(sums)
            position.unlogged.add(sums)
            start, self.reads.seconds = time.perf_counter(), 0.0
            so_far = self._summarize(position.sums)
            speed = so_far.captions_per_second
            on_step(Progress(position.step, self.steps, speed, so_far.loss))
            if position.step % config.log_every == 0:
                on_log(self._summarize(position.unlogged))
                position.unlogged = StepSums()
            if position.step % config.save_every == 0:
                save_state()
        summary = self._summarize(position.sums)
        self.position = _Position(
            epoch=position.epoch + 1, step=position.step, unlogged=position.unlogged
        )
        return summary

    def _train_step(self, batches: Sequence[Batch]) -> StepSums:
        position, config = self.position, self.config
        learning_rate = self.schedule.rate_at(position.step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["scale"]
        self.optimizer.zero_grad()
        sums = self._add_gradients(batches)
        loss = sums.loss / sums.words
        max_norm = config.clip_norm or math.inf
        norm = float(nn.utils.clip_grad_norm_(self.cached_model.parameters(), max_norm))
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise TrainingError(
                f"training diverged at step {position.step + 1}: the loss is {loss:.3g}, the "
                f"gradient norm {norm:.3g}. Lower learning_rate ({config.learning_rate:g}), and "
                "start again with another output."
            )
        self.optimizer.step()
        self._update_ema(position.step)
        position.step += 1
        position.batch += len(batches)
        sums.steps = 1
        sums.gradient_norm = norm
        return sums

    def _add_gradients(self, batches: Sequence[Batch]) -> StepSums:
        """Compute the gradient of the mean loss per word of all batches, and return the sums.

        The gradient of a batch is weighted by its words, so that the sum is the gradient of one
        large batch.
        """
        sums = StepSums()
        for batch in batches:
            result = self._loss(batch)
            (result.loss if len(batches) == 1 else result.loss * result.words).backward()
            sums.loss += result.loss.item() * result.words
            sums.nll += result.nll.item() * result.words
            sums.words += result.words
            sums.reward += result.reward or 0.0
            sums.batches += 1
            sums.captions += len(batch)
        if len(batches) > 1:
            for weight in self.cached_model.parameters():
                if weight.grad is not None:
                    weight.grad /= sums.words
        return sums

    def _loss(self, batch: Batch) -> CaptionLoss:
        bfloat16 = self.config.precision == "bfloat16"
        # Autocast caches 16-bit weights without a graph in passes without gradients. Later passes
        # with gradients must not reuse them.
        cache_weights = self.self_critical is None and not self.config.scheduled_sampling
        device, decoder = self.cached_model.device.type, self.cached_model.decoder
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16, cache_enabled=cache_weights):
            features = self.cached_model.encode(self.cache, batch.images, batch.views)
            if self.text_concepts is not None and decoder.concepts is not None:
                features = self.text_concepts.complete(features, batch.images, decoder.concepts)
            if self.self_critical is None:
                return self._cross_entropy(batch, features)
            result = self.self_critical.loss(decoder, features, batch.images, batch.flipped)
            if weight := self.config.self_critical.cross_entropy_weight:
                loss = result.loss + weight * self._cross_entropy(batch, features).loss
                return replace(result, loss=loss)
            return result

    def _cross_entropy(self, batch: Batch, features: Features) -> CaptionLoss:
        config, device, decoder = self.config, self.cached_model.device, self.cached_model.decoder
        inputs: PackedSequence = batch.inputs.to(device)  # type: ignore[arg-type]
        image = batch.image_index.to(device)
        output = decoder.teacher_forcing(features, self._add_noise(features, inputs, image), image)
        result = cross_entropy(
            output.logits, batch.targets.to(device), label_smoothing=config.label_smoothing
        )
        rows = image if inputs.sorted_indices is None else image[inputs.sorted_indices]
        if config.doubly_stochastic_weight and output.attention is not None:
            padding = None if features.padding is None else features.padding[rows]
            penalty = doubly_stochastic(output.attention, inputs.batch_sizes.tolist(), padding)
            loss = result.loss + config.doubly_stochastic_weight * penalty
            result = replace(result, loss=loss)
        if config.reconstruction_weight and output.reconstruction is not None:
            error = reconstruction_error(
                output.reconstruction, features.vector[rows], inputs.batch_sizes.tolist()
            )
            result = replace(result, loss=result.loss + config.reconstruction_weight * error)
        return result

    def _add_noise(
        self, features: Features, inputs: PackedSequence, image: Int[Tensor, " N"]
    ) -> PackedSequence:
        config = self.config
        if config.scheduled_sampling:
            with torch.no_grad():
                logits = self.cached_model.decoder.teacher_forcing(features, inputs, image).logits
            probability = config.scheduled_sampling * self.position.step / self.steps
            inputs = apply_scheduled_sampling(inputs, logits, probability, excluded=NEVER_GENERATED)
        if config.word_dropout:
            inputs = apply_word_dropout(inputs, config.word_dropout, unk=_UNK, bos=_BOS)
        return inputs

    @torch.no_grad()
    def _update_ema(self, step: int) -> None:
        if self.ema is None:
            return
        # A small decay at first, so that the initial weights have little influence.
        decay = min(self.config.ema_decay, (step + 1) / (step + 10))
        update = get_ema_multi_avg_fn(decay)  # one call for all weights
        update(list(self.ema.parameters()), list(self.cached_model.parameters()), step)

    def _summarize(self, sums: StepSums) -> TrainingSummary:
        return sums.summarize(
            epoch=self.position.epoch + 1,
            step=self.position.step,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            rewards=self.self_critical is not None,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state that :meth:`load_state_dict` restores."""
        position = self.position
        return {
            "cached_model": self.cached_model.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": self._random.states,
            "schedule": self.schedule.state_dict(),
            "position": [position.epoch, position.batch, position.step],
            "sums": vars(position.sums),
            "unlogged": vars(position.unlogged),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state that :meth:`state_dict` returned."""
        self.cached_model.load_state_dict(state["cached_model"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self._random.load(state["random"])
        epoch, batch, step = state["position"]
        sums, unlogged = (StepSums(**state[name]) for name in ("sums", "unlogged"))
        self.position = _Position(epoch, batch, step, sums, unlogged)


def _group(batches: Iterator[Batch], count: int) -> Iterator[list[Batch]]:
    """Yield lists of ``count`` consecutive batches; the last list may be shorter."""
    while group := list(islice(batches, count)):
        yield group
