"""Losses of teacher forcing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_BLOCK = 1 << 18
"""Number of values of a temporary that stays in the cache of a CPU."""


@dataclass(frozen=True)
class CaptionLoss:
    """Loss of one batch.

    Attributes:
        loss: Mean smoothed cross-entropy per word in nats, with gradient.
        nll: Mean negative log-likelihood per word in nats, without smoothing or gradient.
        words: Number of words, ``<eos>`` included.
        reward: Mean reward of sampled captions; None for teacher forcing.
    """

    loss: Float[Tensor, ""]
    nll: Float[Tensor, ""]
    words: int
    reward: float | None = None


def cross_entropy(
    logits: Float[Tensor, "M V"], targets: Int[Tensor, " M"], *, label_smoothing: float = 0.0
) -> CaptionLoss:
    """Return the cross-entropy of the words of a packed batch.

    With label smoothing s (Szegedy et al. 2016, section 7) the target distribution has 1 - s at the
    caption's word and spreads s evenly over all words::

        loss = -(1 - s) log p(w) - s mean_w' log p(w')

    Args:
        logits: One row per word.
        targets: Ids of the correct words.
        label_smoothing: s.
    """
    loss, nll = _SmoothedCrossEntropy.apply(logits, targets, label_smoothing)
    return CaptionLoss(loss, nll, len(targets))


class _SmoothedCrossEntropy(torch.autograd.Function):
    """Mean smoothed cross-entropy, and mean negative log-likelihood.

    The gradient of a row, ``p - (1 - s) onehot(w) - s / V``, is computed with its loss, in blocks
    that stay in the cache of a CPU. So each exponential is computed once, and only the gradient is
    stored, in the precision of the logits.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        M, V = logits.shape
        gradient = torch.empty_like(logits)
        log_p, mean = torch.empty(2, M, device=logits.device)
        size = max(1, _BLOCK // V) if logits.device.type == "cpu" else M
        for start in range(0, M, size):
            rows = slice(start, start + size)
            block, words = logits[rows].float(), targets[rows].unsqueeze(1)
            p = torch.softmax(block, 1)
            log_sum = block.amax(1) - p.amax(1).log()  # log of the sum of the exponentials
            log_p[rows] = block.gather(1, words).squeeze(1) - log_sum
            mean[rows] = block.mean(1) - log_sum
            p.sub_(smoothing / V).scatter_add_(1, words, p.new_full(words.shape, smoothing - 1))
            gradient[rows] = p
        ctx.save_for_backward(gradient)
        nll = -log_p.mean()
        ctx.mark_non_differentiable(nll)
        ctx.set_materialize_grads(False)
        return torch.lerp(nll, -mean.mean(), smoothing), nll

    @staticmethod
    def backward(ctx: Any, scale: Tensor | None, _: None) -> tuple[Tensor | None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (None if scale is None else gradient * (scale / len(gradient))), None, None


def reconstruction_error(
    reconstruction: Float[Tensor, "M D"], vectors: Float[Tensor, "N D"], sizes: Sequence[int]
) -> Float[Tensor, ""]:
    """Return the squared error of reconstructions, relative to the mean square of the vectors.

    Chen & Zitnick (2015), section 3.1, minimize the error after each word.

    Args:
        reconstruction: Reconstructed v after each word, in packed order.
        vectors: v of each caption's image, longest caption first.
        sizes: Number of captions at each step.
    """
    error, square = reconstruction_terms(reconstruction, vectors, sizes)
    return error / square


def reconstruction_terms(
    reconstruction: Float[Tensor, "M D"], vectors: Float[Tensor, "N D"], sizes: Sequence[int]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the two terms of :func:`reconstruction_error`: squared error, and mean square."""
    expected = torch.cat([vectors[:count] for count in sizes]).float()
    return (reconstruction.float() - expected).square().mean(), expected.square().mean()


def doubly_stochastic(
    attention: Float[Tensor, "M P"],
    sizes: Sequence[int],
    padding: Bool[Tensor, "N P"] | None = None,
) -> Float[Tensor, ""]:
    """Return the doubly stochastic attention penalty (Xu et al. 2015, section 4.2.1).

    It is the mean over captions of ``sum_p (1 - sum_t alpha_tp)^2``, and is low if every position
    gets some attention in the course of a caption.

    Args:
        attention: Attention weights of each word, in packed order.
        sizes: Number of captions at each step.
        padding: Positions of each caption's image that are padding, longest caption first.
    """
    total = attention.new_zeros(sizes[0], attention.shape[1])
    for weights in attention.split(list(sizes)):
        rest = total.new_zeros(len(total) - len(weights), total.shape[1])
        total = total + torch.cat([weights, rest])
    missing = 1 - total
    if padding is not None:
        missing = missing.masked_fill(padding, 0.0)
    return missing.square().sum(1).mean()
