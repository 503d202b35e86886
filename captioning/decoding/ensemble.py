"""Ensembles: several models that choose each word together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from captioning.decoding.hypothesis import SearchState, Step


@dataclass(frozen=True)
class EnsembleState:
    """The state of the same rows in every model.

    Attributes:
        states: One state per model.
    """

    states: tuple[SearchState, ...]

    def __len__(self) -> int:
        return len(self.states[0])

    @property
    def device(self) -> torch.device:
        """The device of the first model's state."""
        return getattr(self.states[0], "device", torch.device("cpu"))

    def select(
        self, rows: Int[Tensor, " M"], images: Int[Tensor, " K"] | None = None
    ) -> "EnsembleState":
        """Return the state of ``rows`` in every model."""
        return EnsembleState(tuple(state.select(rows, images) for state in self.states))


def ensemble(steps: Sequence[Step]) -> Step:
    """Return a step function whose probabilities are the mean of those of several models.

    Source: Vinyals et al. (2015), section 4.3.2.

    Args:
        steps: Step functions of models with the same vocabulary. The returned function takes an
            :class:`EnsembleState` of their states, in the same order.
    """

    def step(
        tokens: Int[Tensor, " N"], state: EnsembleState
    ) -> tuple[Float[Tensor, "N V"], EnsembleState]:
        outputs = [one(tokens, own) for one, own in zip(steps, state.states, strict=True)]
        new_state = EnsembleState(tuple(own for _, own in outputs))
        if len(outputs) == 1:
            return outputs[0][0], new_state
        log_probs = torch.stack([model_log_probs for model_log_probs, _ in outputs])
        return torch.logsumexp(log_probs, 0) - math.log(len(outputs)), new_state

    return step
