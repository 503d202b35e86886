"""Sums over training steps, from which means are reported."""

import math
import time
from dataclasses import dataclass

from jaxtyping import Int, Shaped
from torch import Tensor

from captioning.features.cache import CacheRows
from captioning.training.callback import TrainingSummary

_MAX_EXPONENT = 80.0  # exp of more does not fit into the 32 bits of TensorBoard


@dataclass
class StepSums:
    """Sums over some steps, saved so that a resumed run reports the same means.

    Attributes:
        loss: Loss times words.
        nll: Negative log-likelihood of the words.
        words: Words that were predicted.
        reward: Mean rewards of the batches.
        gradient_norm: Norms of the gradients.
        batches: Number of batches.
        steps: Number of steps.
        captions: Number of captions.
        seconds: Time of the steps.
        data_seconds: The part of it in which the model waited for captions and features.
    """

    loss: float = 0.0
    nll: float = 0.0
    words: int = 0
    reward: float = 0.0
    gradient_norm: float = 0.0
    batches: int = 0
    steps: int = 0
    captions: int = 0
    seconds: float = 0.0
    data_seconds: float = 0.0

    def add(self, other: "StepSums") -> None:
        """Add the sums of other steps."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def summarize(
        self, *, epoch: int, step: int, learning_rate: float, rewards: bool
    ) -> TrainingSummary:
        """Return the means.

        Args:
            epoch: Number of the current epoch, from 1.
            step: Number of steps since the start of the run.
            learning_rate: Learning rate of the last step.
            rewards: Whether there are rewards.
        """
        seconds = max(self.seconds, 1e-9)
        return TrainingSummary(
            epoch=epoch,
            step=step,
            loss=self.loss / self.words,
            perplexity=math.exp(min(self.nll / self.words, _MAX_EXPONENT)),
            learning_rate=learning_rate,
            gradient_norm=self.gradient_norm / self.steps,
            captions_per_second=self.captions / seconds,
            data_wait=self.data_seconds / seconds,
            reward=self.reward / self.batches if rewards else None,
        )


class TimedRows(CacheRows):
    """Rows of a cache, with the time in seconds that reading them took."""

    def __init__(self, rows: CacheRows) -> None:
        self.rows = rows
        self.views = rows.views
        self.unreadable = rows.unreadable
        self.seconds = 0.0

    def __len__(self) -> int:
        return len(self.rows)

    def read(
        self, images: Int[Tensor, " B"], views: Int[Tensor, " B"] | None = None
    ) -> Shaped[Tensor, "B P D"]:
        """Read rows of the cache."""
        start = time.perf_counter()
        try:
            return self.rows.read(images, views)
        finally:
            self.seconds += time.perf_counter() - start

    def count_positions(self, images: Int[Tensor, " B"]) -> Int[Tensor, " B"] | None:
        """Return the number of positions of images, as the cache does."""
        return self.rows.count_positions(images)
