"""What search asks of a decoder, and what it gives back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor


@runtime_checkable
class SearchState(Protocol):
    """Where each row under search stands; only the step function knows what is in it.

    A state that is not on the CPU has a ``device``, on which the search then runs.
    """

    def __len__(self) -> int:
        """Return N, the number of rows."""
        ...

    def select(self, rows: Int[Tensor, " M"]) -> "SearchState":
        """Return the state of ``rows``, which may repeat some and leave others out."""
        ...


Step = Callable[[Tensor, Any], tuple[Tensor, Any]]
"""``step(tokens (N,), state) -> (log_probs (N, V), state)``: reads one token per row and returns
the natural log-probabilities of the next. It must not change the state that it is given."""

RerankFunction = Callable[[int, Sequence[tuple[int, ...]]], Sequence[float]]
"""``agreement(image, captions)``: how far some captions, as ids, agree with what is known otherwise
of the image at that place."""


@dataclass(frozen=True)
class Hypothesis:
    """One caption found by search.

    Attributes:
        tokens: The words' ids, without ``<bos>`` and ``<eos>``.
        log_prob: The model's natural log-probability of the caption, ``<eos>`` included where the
            caption is finished; temperature, penalties and constraints do not enter it.
        score: What the hypotheses of one image are ranked by: ``log_prob``, or its
            length-normalised form under beam search, with the agreement where that counts.
        finished: Whether ``<eos>`` was reached. A caption that is still going after ``max_length``
            words is cut there.
        token_log_probs: The log-probability of each token given those before it, ``<eos>``
            included where the caption is finished; they sum to ``log_prob``.
    """

    tokens: tuple[int, ...]
    log_prob: float
    score: float
    finished: bool
    token_log_probs: tuple[float, ...]
