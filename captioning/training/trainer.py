"""From cached features and captions to a trained decoder."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
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
from captioning.training.callback import EpochSummary, Progress
from captioning.training.config import TrainingConfig
from captioning.training.input_noise import apply_scheduled_sampling, apply_word_dropout
from captioning.training.random_state import RandomState
from captioning.training.self_critical import SelfCritical

_BOS, _UNK = SPECIALS.index(BOS), SPECIALS.index(UNK)
_LARGEST_EXPONENT = 700.0  # of what a float can hold


@dataclass
class _Sums:
    """What an epoch adds up; part of the saved state, so that a resumed epoch reports the same."""

    loss: float = 0.0
    nll: float = 0.0
    words: int = 0
    reward: float = 0.0
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
    """Trains a decoder, and a CNN's last stages, on cached features, epoch by epoch.

    The order of the batches depends on the seed and the epoch alone, and the state of dropout's
    random numbers is saved with the weights; so a run that is killed and resumed from
    :meth:`state_dict` ends with the same weights as one that was not.

    Args:
        decoder: Trained in place.
        dataset: Captions.
        cache: Features of the same images, in the same order. Captions beyond its end have no
            image.
        config: How.
        tail: The CNN's last stages, trained in place, where the rows are what comes before them.
        self_critical: The objective in place of cross-entropy.
    """

    def __init__(
        self,
        decoder: Decoder,
        dataset: CaptionDataset,
        cache: CacheRows,
        config: TrainingConfig,
        *,
        tail: EncoderTail | None = None,
        self_critical: SelfCritical | None = None,
    ) -> None:
        self.cached_model = CachedModel(decoder, tail)
        self.dataset = dataset
        self.cache = cache
        self.config = config
        self.self_critical = self_critical
        fused = self.cached_model.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(self.cached_model, config), fused=fused
        )
        self.average = copy.deepcopy(self.cached_model) if config.ema_decay else None
        self.position = _Position()
        per_epoch = dataset.batch_count(config.batch_size, config.captions_per_image)
        self.steps = per_epoch * config.epochs
        self._random = RandomState.seeded(config.seed, self.cached_model.device)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.position.epoch >= self.config.epochs

    @property
    def trained(self) -> CachedModel:
        """What to validate and keep: the running average where there is one."""
        return self.average or self.cached_model

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
            views=self.cache.views if config.hflip else 1,
            seed=config.seed,
            epoch=position.epoch,
        )
        self.cached_model.train()
        self._random.restore()
        for number, batch in enumerate(batches):
            if number < position.batch:
                continue  # done before the run was interrupted
            self._train_batch(batch)
            self._random.keep()
            sums = position.sums
            rate = sums.captions / max(sums.seconds, 1e-9)
            watch(Progress(position.step, self.steps, rate, sums.loss / sums.words))
            if position.step % config.save_every == 0:
                save()
        summary = self._summary()
        self.position = _Position(epoch=position.epoch + 1, step=position.step)
        return summary

    def _train_batch(self, batch: Batch) -> None:
        start = time.perf_counter()
        position, config = self.position, self.config
        rate = config.learning_rate_at(position.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        result = self._loss(batch)
        self.optimizer.zero_grad()
        result.loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.cached_model.parameters(), config.clip_norm))
        loss = result.loss.item()
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise TrainingError(
                f"At batch {position.step + 1} the loss is {loss} and the gradient's norm {norm}. "
                f"Lower the learning rate ({config.learning_rate}) or clip_norm "
                f"({config.clip_norm}), and start the run again with another output."
            )
        self.optimizer.step()
        self._average(position.step)
        position.step += 1
        position.batch += 1
        sums = position.sums
        sums.loss += loss * result.words
        sums.nll += result.nll.item() * result.words
        sums.words += result.words
        sums.reward += result.reward or 0.0
        sums.gradient_norm += norm
        sums.batches += 1
        sums.captions += len(batch)
        sums.seconds += time.perf_counter() - start

    def _loss(self, batch: Batch) -> CaptionLoss:
        bfloat16 = self.config.precision == "bfloat16"
        # Sampling leaves 16-bit copies of the weights without a graph: not to be used again.
        keep = self.self_critical is None and not self.config.scheduled_sampling
        with torch.autocast(
            self.cached_model.device.type, torch.bfloat16, enabled=bfloat16, cache_enabled=keep
        ):
            features = self.cached_model.encode(self.cache, batch.images, batch.views)
            if self.self_critical is None:
                return self._cross_entropy(batch, features)
            result = self.self_critical.loss(
                self.cached_model.decoder, features, batch.images, batch.mirrored
            )
            if weight := self.config.self_critical.cross_entropy_weight:
                loss = result.loss + weight * self._cross_entropy(batch, features).loss
                return replace(result, loss=loss)
            return result

    def _cross_entropy(self, batch: Batch, features: Features) -> CaptionLoss:
        config, device, decoder = self.config, self.cached_model.device, self.cached_model.decoder
        inputs: PackedSequence = batch.inputs.to(device)  # type: ignore[arg-type]
        image = batch.image.to(device)
        taught = decoder.teach(features, self._read(features, inputs, image), image)
        result = cross_entropy(
            taught.logits, batch.targets.to(device), label_smoothing=config.label_smoothing
        )
        if config.doubly_stochastic_weight and taught.attention is not None:
            term = doubly_stochastic(taught.attention, inputs.batch_sizes.tolist())
            result = replace(result, loss=result.loss + config.doubly_stochastic_weight * term)
        if config.reconstruction_weight and taught.reconstruction is not None:
            rows = image if inputs.sorted_indices is None else image[inputs.sorted_indices]
            error = reconstruction_error(
                taught.reconstruction, features.vector[rows], inputs.batch_sizes.tolist()
            )
            result = replace(result, loss=result.loss + config.reconstruction_weight * error)
        return result

    def _read(
        self, features: Features, inputs: PackedSequence, image: Int[Tensor, " N"]
    ) -> PackedSequence:
        """Return what the decoder reads: the captions, with words dropped or its own mixed in."""
        config = self.config
        if config.scheduled_sampling:
            with torch.no_grad():
                logits = self.cached_model.decoder.teach(features, inputs, image).logits
            chance = config.scheduled_sampling * self.position.step / self.steps
            inputs = apply_scheduled_sampling(inputs, logits, chance, banned=NEVER_GENERATED)
        if config.word_dropout:
            inputs = apply_word_dropout(inputs, config.word_dropout, unknown=_UNK, first=_BOS)
        return inputs

    @torch.no_grad()
    def _average(self, step: int) -> None:
        if self.average is None:
            return
        decay = min(self.config.ema_decay, (step + 1) / (step + 10))  # a quick start
        average = get_ema_multi_avg_fn(decay)  # one call in place of one for each weight
        average(list(self.average.parameters()), list(self.cached_model.parameters()), step)

    def _summary(self) -> EpochSummary:
        sums, position = self.position.sums, self.position
        return EpochSummary(
            epoch=position.epoch + 1,
            step=position.step,
            loss=sums.loss / sums.words,
            perplexity=math.exp(min(sums.nll / sums.words, _LARGEST_EXPONENT)),
            learning_rate=self.optimizer.param_groups[0]["lr"],
            reward=None if self.self_critical is None else sums.reward / sums.batches,
            gradient_norm=sums.gradient_norm / sums.batches,
            captions_per_second=sums.captions / max(sums.seconds, 1e-9),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all that :meth:`load_state_dict` needs to go on from here."""
        position = self.position
        return {
            "cached_model": self.cached_model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": self._random.states,
            "position": [position.epoch, position.batch, position.step],
            "sums": vars(position.sums),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where :meth:`state_dict` was taken."""
        self.cached_model.load_state_dict(state["cached_model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._random.states = state["random"]
        epoch, batch, step = state["position"]
        self.position = _Position(epoch, batch, step, _Sums(**state["sums"]))


def _parameter_groups(cached_model: CachedModel, config: TrainingConfig) -> list[dict[str, Any]]:
    """Decay matrices; leave biases and the word vectors, whose rare rows it would shrink."""
    kept = {id(cached_model.decoder.embedding.weight)}
    groups = []
    for part, scale in ((cached_model.decoder, 1.0), (cached_model.tail, config.encoder_lr_scale)):
        weights = [] if part is None else list(part.parameters())
        matrices = [p for p in weights if p.ndim > 1 and id(p) not in kept]
        others = [p for p in weights if p.ndim <= 1 or id(p) in kept]
        for params, decay in ((matrices, config.weight_decay), (others, 0.0)):
            if params:
                groups.append({"params": params, "weight_decay": decay, "scale": scale})
    return groups
