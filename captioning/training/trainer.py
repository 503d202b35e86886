"""Teacher forcing: from cached features and captions to a trained decoder."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from captioning.data.batches import Batch, CaptionDataset
from captioning.data.features import FeatureCache
from captioning.errors import TrainingError
from captioning.nn.decoder import Decoder
from captioning.nn.features import Features
from captioning.training.loss import CaptionLoss, cross_entropy
from captioning.training.progress import EpochSummary, Progress
from captioning.training.settings import TrainingConfig


def read_features(
    cache: FeatureCache, images: Tensor, mirrored: Tensor | None, decoder: Decoder
) -> Features:
    """Return what the decoder needs of some cached pictures, on its device."""
    grid = cache.read(images, mirrored).to(decoder.embedding.weight.device)
    return Features(grid.mean(1), grid if decoder.config.attention else None)


@dataclass
class _Sums:
    """What an epoch adds up; part of the saved state, so that a resumed epoch reports the same."""

    loss: float = 0.0
    nll: float = 0.0
    words: int = 0
    gradient_norm: float = 0.0
    batches: int = 0
    captions: int = 0
    seconds: float = 0.0


@dataclass
class _Position:
    """Where the run stands: epochs finished, batches done in this epoch and in all."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    sums: _Sums = field(default_factory=_Sums)


class Trainer:
    """Trains a decoder on cached features, epoch by epoch.

    The order of the batches depends on the seed and the epoch alone, and the state of dropout's
    random numbers is saved with the weights; so a run that is killed and resumed from
    :meth:`state_dict` ends with the same weights as one that was not.

    Args:
        decoder: Trained in place.
        dataset: Captions.
        cache: Features of the same pictures, in the same order.
        config: How.
    """

    def __init__(
        self,
        decoder: Decoder,
        dataset: CaptionDataset,
        cache: FeatureCache,
        config: TrainingConfig,
    ) -> None:
        self.decoder = decoder
        self.dataset = dataset
        self.cache = cache
        self.config = config
        self.optimizer = torch.optim.AdamW(_parameter_groups(decoder, config.weight_decay))
        self.average = copy.deepcopy(decoder) if config.averaging else None
        self.position = _Position()
        per_epoch = dataset.batch_count(config.batch_size, config.captions_per_image)
        self.steps = per_epoch * config.epochs
        self._generator_state = torch.Generator().manual_seed(config.seed).get_state()

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.position.epoch >= self.config.epochs

    @property
    def trained(self) -> Decoder:
        """The decoder to validate and keep: the running average where there is one."""
        return self.average or self.decoder

    def train_epoch(
        self,
        *,
        watch: Callable[[Progress], None] = lambda progress: None,
        save: Callable[[], None] = lambda: None,
    ) -> EpochSummary:
        """Train to the end of the current epoch.

        Args:
            watch: Told after each batch where the run stands.
            save: Called every ``save_every`` batches, when :meth:`state_dict` may be taken.

        Raises:
            TrainingError: The loss is no finite number any more.
        """
        config, position = self.config, self.position
        batches = self.dataset.batches(
            config.batch_size,
            per_image=config.captions_per_image,
            mirror=config.mirror and self.cache.rows.shape[1] > 1,
            seed=config.seed,
            epoch=position.epoch,
        )
        self.decoder.train()
        torch.set_rng_state(self._generator_state)
        for number, batch in enumerate(batches):
            if number < position.batch:
                continue  # done before the run was interrupted
            self._train_batch(batch)
            self._generator_state = torch.get_rng_state()
            sums = position.sums
            watch(Progress(position.step, self.steps, len(batch), sums.loss / sums.words))
            if position.step % config.save_every == 0:
                save()
        summary = self._summary()
        self.position = _Position(epoch=position.epoch + 1, step=position.step)
        return summary

    def _train_batch(self, batch: Batch) -> None:
        start = time.perf_counter()
        position, config = self.position, self.config
        rate = config.rate(position.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        result = self._loss(batch)
        self.optimizer.zero_grad()
        result.loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.decoder.parameters(), config.clip_norm))
        loss = result.loss.item()
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise TrainingError(
                f"At batch {position.step + 1} the loss is {loss} and the gradient's norm {norm}. "
                f"Lower the learning rate ({config.learning_rate}) or clip_norm "
                f"({config.clip_norm}), and start the run again."
            )
        self.optimizer.step()
        self._average(position.step)
        position.step += 1
        position.batch += 1
        sums = position.sums
        sums.loss += loss * result.words
        sums.nll += result.nll.item() * result.words
        sums.words += result.words
        sums.gradient_norm += norm
        sums.batches += 1
        sums.captions += len(batch)
        sums.seconds += time.perf_counter() - start

    def _loss(self, batch: Batch) -> CaptionLoss:
        device = self.decoder.embedding.weight.device
        features = read_features(self.cache, batch.images, batch.mirrored, self.decoder)
        inputs = batch.inputs.to(device)  # type: ignore[arg-type]
        bfloat16 = self.config.precision == "bfloat16"
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            logits = self.decoder(features, inputs, batch.image.to(device))
        return cross_entropy(
            logits, batch.targets.to(device), label_smoothing=self.config.label_smoothing
        )

    @torch.no_grad()
    def _average(self, step: int) -> None:
        if self.average is None:
            return
        decay = min(self.config.averaging, (step + 1) / (step + 10))  # a quick start
        for mean, weight in zip(self.average.parameters(), self.decoder.parameters(), strict=True):
            mean.lerp_(weight, 1 - decay)

    def _summary(self) -> EpochSummary:
        sums, position = self.position.sums, self.position
        return EpochSummary(
            epoch=position.epoch + 1,
            step=position.step,
            loss=sums.loss / sums.words,
            perplexity=math.exp(sums.nll / sums.words),
            learning_rate=self.optimizer.param_groups[0]["lr"],
            gradient_norm=sums.gradient_norm / sums.batches,
            captions_per_second=sums.captions / max(sums.seconds, 1e-9),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all that :meth:`load_state_dict` needs to go on from here."""
        position = self.position
        return {
            "decoder": self.decoder.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": self._generator_state,
            "position": [position.epoch, position.batch, position.step],
            "sums": vars(position.sums),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where :meth:`state_dict` was taken."""
        self.decoder.load_state_dict(state["decoder"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._generator_state = state["random"]
        epoch, batch, step = state["position"]
        self.position = _Position(epoch, batch, step, _Sums(**state["sums"]))


def _parameter_groups(decoder: Decoder, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices; leave biases and the word vectors, whose rare rows it would shrink."""
    kept = {id(decoder.embedding.weight)}
    matrices = [p for p in decoder.parameters() if p.ndim > 1 and id(p) not in kept]
    others = [p for p in decoder.parameters() if p.ndim <= 1 or id(p) in kept]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
