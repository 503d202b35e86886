"""The training loop over batches of captions and image features."""

import copy
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from captioning.datasets.batches import Batch, CaptionDataset
from captioning.errors import TrainingError, TrainingStoppedError
from captioning.features.cache import CacheRows
from captioning.features.cached_model import CachedModel
from captioning.nn.decoder import Decoder
from captioning.nn.split_encoder import EncoderTail
from captioning.processes import raise_together
from captioning.training.augmented_images import AugmentedImages
from captioning.training.batch_loss import BatchLoss
from captioning.training.callback import Progress, TrainingSummary
from captioning.training.gradients import add_gradients_over_processes
from captioning.training.optimizer import Schedule, create_optimizer
from captioning.training.random_state import RandomState
from captioning.training.self_critical import SelfCriticalObjective
from captioning.training.step_sums import StepSums, TimedRows
from captioning.training.text_concepts import TextConcepts
from captioning.training.training_config import TrainingConfig


@dataclass
class _Position:
    """Number of finished epochs, batches of the current epoch, and steps of all epochs.

    ``sums`` are the statistics of the current epoch, ``unlogged`` those since the last row of the
    log.
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
        self.cached_model = CachedModel(decoder, tail)
        self.dataset = dataset
        self.reads = TimedRows(cache.pixels if isinstance(cache, AugmentedImages) else cache)
        self.cache: CacheRows = self.reads
        if isinstance(cache, AugmentedImages):  # measure reading pixels, without their encoder
            self.cache = AugmentedImages(self.reads, cache.encoder)
        self.config = config
        self.loss = BatchLoss(self.cached_model, self.cache, config, self_critical, text_concepts)
        self.optimizer = create_optimizer(self.cached_model, config)
        self.ema = copy.deepcopy(self.cached_model) if config.ema_decay else None
        self.position = _Position()
        batches = dataset.batch_count(config.batch_size, config.captions_per_image)
        per_epoch = math.ceil(batches / config.accumulation_steps)
        self.steps = min(per_epoch * config.epochs, config.max_steps or sys.maxsize)
        self.schedule = Schedule(config, steps=self.steps, steps_per_epoch=per_epoch)
        self._scaler = torch.amp.GradScaler(
            self.cached_model.device.type, enabled=config.precision == "float16"
        )
        self._stopping = False
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
        should_stop: Callable[[], bool] = lambda: False,
    ) -> TrainingSummary:
        """Train to the end of the current epoch, or to the last step of the run.

        Args:
            on_step: Called after each step.
            on_log: Called every ``log_every`` steps with their statistics.
            save_state: Called every ``save_every`` steps and after the last step of the epoch. May
                read :meth:`state_dict`.
            should_stop: Called in each step. If it returns True, the state is saved after this
                step, and the training stops.

        Raises:
            TrainingError: The loss or the gradient is not finite.
            TrainingStoppedError: ``should_stop`` of one of the processes returned True.
        """
        config, position = self.config, self.position
        self.cached_model.train()
        if self.cached_model.tail is not None:
            self.cached_model.tail.requires_grad_(position.epoch + 1 >= config.encoder_start_epoch)
        self._random.restore()
        start = time.perf_counter()
        self.reads.seconds = 0.0
        for group in self._remaining_groups():
            waited = time.perf_counter() - start
            sums = self._train_step(group, should_stop)
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
            self._save_if_due(save_state)
        if position.step % config.save_every:
            save_state()  # validation can take long
        summary = self._summarize(position.sums)
        self.position = _Position(
            epoch=position.epoch + 1, step=position.step, unlogged=position.unlogged
        )
        return summary

    def _remaining_groups(self) -> Iterator[list[Batch]]:
        """Return the batches of each remaining step of the epoch."""
        config, position = self.config, self.position
        batches = self.dataset.batches(
            config.batch_size,
            per_image=config.captions_per_image,
            views=self.cache.views if config.hflip else 1,
            seed=config.seed,
            epoch=position.epoch,
        )
        remaining = islice(batches, position.batch, None)  # after an interruption
        groups = _group(remaining, config.accumulation_steps)
        # A run can resume with a limit that it has passed already.
        return islice(groups, max(0, self.steps - position.step))

    def _save_if_due(self, save_state: Callable[[], None]) -> None:
        """Save the state every ``save_every`` steps, and before a stop."""
        step, stopping = self.position.step, self._stopping
        if stopping or step % self.config.save_every == 0:
            save_state()
        if stopping:
            self._stopping = False
            raise TrainingStoppedError(
                f"stopped after step {step} of {self.steps}, and saved the state. Run the same "
                "command again to resume."
            )

    def _train_step(self, batches: Sequence[Batch], should_stop: Callable[[], bool]) -> StepSums:
        position, config = self.position, self.config
        learning_rate = self.schedule.rate_at(position.step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["scale"]
        self.optimizer.zero_grad()
        sums = self._compute_gradients(batches, should_stop)
        loss = sums.loss / sums.words
        max_norm = config.clip_norm or math.inf
        self._scaler.unscale_(self.optimizer)
        norm = float(nn.utils.clip_grad_norm_(self.cached_model.parameters(), max_norm))
        if self._scaler.is_enabled() and not math.isfinite(norm):
            norm = 0.0  # an overflow in float16: the scaler omits the step and lowers the scale
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise_together(
                TrainingError(
                    f"training diverged at step {position.step + 1}: the loss is {loss:.3g}, the "
                    f"gradient norm {norm:.3g}. Lower learning_rate ({config.learning_rate:g}), "
                    "and start again with another output."
                )
            )
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self._update_ema(position.step)
        position.step += 1
        position.batch += len(batches)
        sums.steps = 1
        sums.gradient_norm = norm
        return sums

    def _compute_gradients(
        self, batches: Sequence[Batch], should_stop: Callable[[], bool]
    ) -> StepSums:
        """Compute the gradient of the mean loss per word of all batches, and return the sums.

        The gradient of a batch is weighted by its words, so that the sum is the gradient of one
        large batch.
        """
        config, sums = self.config, StepSums()
        scheduled_sampling = config.scheduled_sampling * self.position.step / self.steps
        for batch in batches:
            result = self.loss(batch, scheduled_sampling)
            loss = result.loss if len(batches) == 1 else result.loss * result.words
            self._scaler.scale(loss).backward()
            sums.loss += result.loss.item() * result.words
            sums.nll += result.nll.item() * result.words
            sums.words += result.words
            sums.reward += result.reward or 0.0
            sums.batches += 1
            sums.captions += len(batch)
        # All processes stop if one of them should.
        self._stopping = add_gradients_over_processes(self.cached_model, sums, stop=should_stop())
        if len(batches) > 1:
            for weight in self.cached_model.parameters():
                if weight.grad is not None:
                    weight.grad /= sums.words
        return sums

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
            rewards=self.loss.self_critical is not None,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state that :meth:`load_state_dict` restores."""
        position = self.position
        return {
            "cached_model": self.cached_model.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": self._random.states,
            "scaler": self._scaler.state_dict(),
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
        self._scaler.load_state_dict(state["scaler"])
        self.schedule.load_state_dict(state["schedule"])
        self._random.load(state["random"])
        epoch, batch, step = state["position"]
        sums, unlogged = (StepSums(**state[name]) for name in ("sums", "unlogged"))
        self.position = _Position(epoch, batch, step, sums, unlogged)


def _group(batches: Iterator[Batch], count: int) -> Iterator[list[Batch]]:
    """Yield lists of ``count`` consecutive batches; the last list may be shorter."""
    while group := list(islice(batches, count)):
        yield group
