"""The interface between search and decoder: state, step function and hypotheses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor


@runtime_checkable
class SearchState(Protocol):
    """The decoder state of each row under search; only the step function reads its content.

    A state that is not on the CPU has a ``device``, and the search runs on that device.
    """

    def __len__(self) -> int:
        """Return N, the number of rows."""
        ...

    def select(
        self, rows: Int[Tensor, " M"], images: Int[Tensor, " K"] | None = None
    ) -> "SearchState":
        """Return the state of ``rows``; a row may occur several times or not at all.

        Args:
            rows: Rows of the present state. The rows of an image stay together, and every image
                has the same number of rows.
            images: Which of the present images the rows belong to, in order; None for all.
        """
        ...


Step = Callable[[Tensor, Any], tuple[Tensor, Any]]
"""``step(tokens (N,), state) -> (log_probs (N, V), state)``: reads one token per row and returns
the natural log-probabilities of the next token. It must not change the state it receives."""

RerankFunction = Callable[[int, Sequence[tuple[int, ...]]], Sequence[float]]
"""``rerank(image, captions)``: scores captions, given as token ids, of one image of the batch."""


@dataclass(frozen=True)
class Hypothesis:
    """One caption found by search.

    Attributes:
        tokens: Token ids, without ``<bos>`` and ``<eos>``.
        log_prob: Natural log-probability of the caption under the model, including ``<eos>`` if
            the caption is finished. Temperature, penalties and constraints do not change it.
        score: Value by which the hypotheses of an image are ranked: ``log_prob``, or under beam
            search its length-normalized form plus the weighted score of n-gram reranking.
        finished: Whether ``<eos>`` was reached before ``max_length`` words.
        token_log_probs: Log-probability of each token given those before it, including ``<eos>``
            if the caption is finished. They sum to ``log_prob``.
    """

    tokens: tuple[int, ...]
    log_prob: float
    score: float
    finished: bool
    token_log_probs: tuple[float, ...]
