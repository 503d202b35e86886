"""The hypotheses of a beam search, as tensors.

Every tensor has the same leading dimensions: B images, G groups (of diverse beam search), K banks
(bank k holds hypotheses with k of the C required words, so K = C + 1) and W hypotheses per bank.
Plain beam search has G = K = 1, and greedy search also W = 1. L is the maximum number of tokens.
"""

from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from captioning.decoding.constraints import IMPOSSIBLE, TokenRules
from captioning.decoding.hypothesis import Hypothesis
from captioning.decoding.methods import SearchMethod

_STEPS_BETWEEN_CHECKS = 4
_T = TypeVar("_T", "ActiveHypotheses", "FinishedHypotheses")


@dataclass(frozen=True)
class BeamConfig:
    """The settings of greedy, beam and diverse beam search; ``methods`` documents each."""

    width: int = 1
    n: int = 1
    length_penalty: float = 0.0
    groups: int = 1
    diversity_penalty: float = 0.0

    @classmethod
    def from_method(cls, method: SearchMethod) -> "BeamConfig":
        """Return the settings of ``method``, with the defaults for those that it does not have."""
        names = [entry.name for entry in fields(cls) if hasattr(method, entry.name)]
        return cls(**{name: getattr(method, name) for name in names})


@dataclass(frozen=True)
class ActiveHypotheses:
    """The unfinished hypotheses. An empty slot has log-probability minus infinity.

    Attributes:
        log_prob: Sum of the token log-probabilities so far.
        met: Which required words each hypothesis contains.
        tokens: The tokens so far, padded to L.
        token_log_probs: Log-probability of each token.
    """

    log_prob: Float[Tensor, "B G K W"]
    met: Bool[Tensor, "B G K W C"]
    tokens: Int[Tensor, "B G K W L"]
    token_log_probs: Float[Tensor, "B G K W L"]

    @classmethod
    def initial(cls, images: int, rules: TokenRules, config: BeamConfig) -> "ActiveHypotheses":
        """Return one empty hypothesis per group, in the bank without required words."""
        C, L, device = len(rules.required), rules.method.max_length + 1, rules.required.device
        shape = (images, config.groups, C + 1, config.width)
        log_prob = torch.full(shape, IMPOSSIBLE, device=device)
        log_prob[:, :, 0, 0] = 0.0
        return cls(
            log_prob,
            torch.zeros(*shape, C, dtype=torch.bool, device=device),
            torch.full((*shape, L), rules.eos, device=device),
            torch.zeros(*shape, L, device=device),
        )

    def select(self, images: Int[Tensor, " K"]) -> "ActiveHypotheses":
        """Return the hypotheses of some images."""
        return _select(self, images)

    def by_hypothesis(self, log_probs: Tensor) -> Float[Tensor, "B G K W V"]:
        """Shape the output of a step; at the first step all hypotheses of an image share a row."""
        B, G, K, W = self.log_prob.shape
        if log_probs.dtype in (torch.float16, torch.bfloat16):
            log_probs = log_probs.float()  # a 16-bit sum cannot separate close hypotheses
        if len(log_probs) == B:
            return log_probs.view(B, 1, 1, 1, -1).expand(B, G, K, W, -1)
        return log_probs.view(B, G, K, W, -1)

    def scores(
        self, log_probs: Float[Tensor, "B G K W V"], rules: TokenRules, t: int
    ) -> Float[Tensor, "B G K W V"]:
        """Return the log-probability of every extension; minus infinity if it is not allowed."""
        scores = log_probs + self.log_prob.unsqueeze(4)
        V, L = scores.shape[4], self.tokens.shape[4]
        rules.apply_(scores.view(-1, V), self.tokens.view(-1, L)[:, :t])
        return scores


@dataclass(frozen=True)
class FinishedHypotheses:
    """The best finished hypotheses, best first. An empty slot has score minus infinity."""

    score: Float[Tensor, "B G n"]
    log_prob: Float[Tensor, "B G n"]
    length: Int[Tensor, "B G n"]
    tokens: Int[Tensor, "B G n L"]
    token_log_probs: Float[Tensor, "B G n L"]

    @classmethod
    def empty(cls, active: ActiveHypotheses, n: int) -> "FinishedHypotheses":
        """Return ``n`` empty slots per group."""
        B, G, _, _, L = active.tokens.shape
        scores = active.log_prob.new_full((B, G, n), IMPOSSIBLE)
        tokens = active.tokens.new_zeros(B, G, n, L)
        lengths = torch.zeros_like(scores, dtype=torch.long)
        return cls(scores, scores, lengths, tokens, tokens.float())

    @classmethod
    def from_active(
        cls,
        log_prob: Float[Tensor, "B G W"],
        active: ActiveHypotheses,
        config: BeamConfig,
        t: int,
        eos_log_prob: Float[Tensor, "B G W"] | None = None,
    ) -> "FinishedHypotheses":
        """Return the hypotheses of t words that contain every required word.

        Args:
            log_prob: Their log-probabilities, including ``<eos>`` if they end with it.
            active: The active hypotheses before this step.
            config: The beam search.
            t: Number of words.
            eos_log_prob: Log-probability of ``<eos>``; None if the hypotheses are cut off.
        """
        token_log_probs, count = active.token_log_probs[:, :, -1], t
        if eos_log_prob is not None:
            token_log_probs, count = token_log_probs.clone(), t + 1
            token_log_probs[..., t] = eos_log_prob
        return cls(
            log_prob / count**config.length_penalty,
            log_prob,
            torch.full_like(log_prob, t, dtype=torch.long),
            active.tokens[:, :, -1],
            token_log_probs,
        )

    def select(self, images: Int[Tensor, " K"]) -> "FinishedHypotheses":
        """Return the hypotheses of some images."""
        return _select(self, images)

    def merge(self, others: "FinishedHypotheses") -> "FinishedHypotheses":
        """Return the best of both, in as many slots as this one has."""
        index = torch.cat([self.score, others.score], 2).topk(self.score.shape[2], 2).indices
        pairs = ((getattr(self, f.name), getattr(others, f.name)) for f in fields(self))
        return FinishedHypotheses(*(gather_slots(torch.cat(pair, 2), index) for pair in pairs))

    def to_lists(self, *, finished: bool) -> list[list[list[Hypothesis]]]:
        """Return the hypotheses of each image and group, without empty slots."""
        columns = (getattr(self, entry.name).tolist() for entry in fields(self))
        return [
            [
                [
                    Hypothesis(
                        tuple(tokens[:length]),
                        log_prob,
                        score,
                        finished,
                        tuple(token_log_probs[: length + finished]),
                    )
                    for score, log_prob, length, tokens, token_log_probs in zip(*group, strict=True)
                    if score > IMPOSSIBLE
                ]
                for group in zip(*image, strict=True)
            ]
            for image in zip(*columns, strict=True)
        ]


def find_leaving(done: Bool[Tensor, " B"], t: int) -> Bool[Tensor, " B"] | None:
    """Return which images leave the batch after step t; None if none does.

    Removing images copies the states of the others, which is worth it if a quarter is done. On a
    GPU, reading ``done`` waits for the device, so it is read only every few steps.
    """
    if done.device.type != "cpu" and (t + 1) % _STEPS_BETWEEN_CHECKS:
        return None
    return done if 4 * int(done.sum()) >= len(done) else None


def _select(hypotheses: _T, images: Int[Tensor, " K"]) -> _T:
    parts = (getattr(hypotheses, entry.name) for entry in fields(hypotheses))
    return type(hypotheses)(*(part.index_select(0, images) for part in parts))


def gather_slots(source: Tensor, index: Int[Tensor, "B G M"]) -> Tensor:
    """Return the numbers or vectors of ``source`` at ``index`` of its third dimension."""
    if source.ndim > index.ndim:
        index = index.unsqueeze(3).expand(*index.shape, source.shape[3])
    return source.gather(2, index)
