"""Several models that choose each word together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from captioning.decoding.hypothesis import SearchState, Step


@dataclass(frozen=True)
class EnsembleState:
    """Where each row stands in every model.

    Attributes:
        states: One for each model, of the same rows.
    """

    states: tuple[SearchState, ...]

    def __len__(self) -> int:
        return len(self.states[0])

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return getattr(self.states[0], "device", torch.device("cpu"))

    def select(self, rows: Int[Tensor, " M"]) -> "EnsembleState":
        """Return the state of ``rows`` in every model."""
        return EnsembleState(tuple(state.select(rows) for state in self.states))


def ensemble(steps: Sequence[Step]) -> Step:
    """Return a step whose probabilities are the mean of those of several models.

    Vinyals et al. (2015), section 4.3.2, score with such ensembles.

    Args:
        steps: Of models with the same vocabulary. The state that the new step takes is an
            :class:`EnsembleState` of theirs, in the same order.
    """

    def step(
        tokens: Int[Tensor, " N"], state: EnsembleState
    ) -> tuple[Float[Tensor, "N V"], EnsembleState]:
        found = [one(tokens, own) for one, own in zip(steps, state.states, strict=True)]
        after = EnsembleState(tuple(own for _, own in found))
        if len(found) == 1:
            return found[0][0], after
        log_probs = torch.stack([each for each, _ in found])
        return torch.logsumexp(log_probs, 0) - math.log(len(found)), after

    return step
