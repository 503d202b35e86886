"""Optimizer of a run, and the learning rate of each of its steps."""

import math
from typing import Any

import torch

from captioning.features.cached_model import CachedModel
from captioning.training.training_config import TrainingConfig

_LAST_FACTOR = 0.02  # of the cosine schedule


def create_optimizer(cached_model: CachedModel, config: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW, with weight decay for matrices only.

    Biases and word vectors have none: decay would shrink the vectors of rare words. The learning
    rate of a group is multiplied by its ``scale``.
    """
    undecayed = {id(cached_model.decoder.embedding.weight)}
    parts = ((cached_model.decoder, 1.0), (cached_model.tail, config.encoder_lr_scale))
    groups: list[dict[str, Any]] = []
    for part, scale in parts:
        weights = [] if part is None else list(part.parameters())
        matrices = [p for p in weights if p.ndim > 1 and id(p) not in undecayed]
        others = [p for p in weights if p.ndim <= 1 or id(p) in undecayed]
        for params, decay in ((matrices, config.weight_decay), (others, 0.0)):
            if params:
                groups.append({"params": params, "weight_decay": decay, "scale": scale})
    return torch.optim.AdamW(groups, fused=cached_model.device.type in ("cpu", "cuda"))


class Schedule:
    """Learning rate of each step: a linear warm-up times one of the schedules.

    Args:
        config: Schedule, maximum rate, warm-up, and decay.
        steps: Number of steps of the run.
        steps_per_epoch: Number of steps of an epoch.
    """

    def __init__(self, config: TrainingConfig, *, steps: int, steps_per_epoch: int) -> None:
        self.config = config
        self.steps = steps
        self._interval = max(1, round(config.decay_epochs * steps_per_epoch))
        self._decays = 0
        self._worse_epochs = 0

    def rate_at(self, step: int) -> float:
        """Return the learning rate of ``step`` (from 0)."""
        config = self.config
        warmup = min(config.warmup_steps, self.steps // 10)
        ramp = min(1.0, (step + 1) / warmup) if warmup else 1.0
        return config.learning_rate * ramp * self._factor_at(step)

    def _factor_at(self, step: int) -> float:
        config = self.config
        if config.schedule == "cosine":
            cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.steps)))
            return _LAST_FACTOR + (1 - _LAST_FACTOR) * cosine
        decays = {"constant": 0, "step": step // self._interval, "plateau": self._decays}
        return config.decay_factor ** decays[config.schedule]

    def report_epoch(self, *, better: bool) -> None:
        """Record whether the last epoch has the best validation score so far."""
        self._worse_epochs = 0 if better else self._worse_epochs + 1
        if self._worse_epochs >= self.config.decay_epochs:
            self._decays += 1
            self._worse_epochs = 0

    def state_dict(self) -> dict[str, int]:
        """Return the state that :meth:`load_state_dict` restores."""
        return {"decays": self._decays, "worse_epochs": self._worse_epochs}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a state that :meth:`state_dict` returned."""
        self._decays, self._worse_epochs = state["decays"], state["worse_epochs"]
