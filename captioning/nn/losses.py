"""Losses of teacher forcing."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


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
    log_probs = torch.log_softmax(logits.float(), 1)
    nll = -log_probs.gather(1, targets.unsqueeze(1)).mean()
    loss = nll
    if label_smoothing:
        loss = (1 - label_smoothing) * nll - label_smoothing * log_probs.mean()
    return CaptionLoss(loss, nll.detach(), len(targets))


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
    expected = torch.cat([vectors[:count] for count in sizes]).float()
    return (reconstruction.float() - expected).square().mean() / expected.square().mean()


def doubly_stochastic(attention: Float[Tensor, "M P"], sizes: Sequence[int]) -> Float[Tensor, ""]:
    """Return the doubly stochastic attention penalty (Xu et al. 2015, section 4.2.1).

    The mean over captions of ``sum_p (1 - sum_t alpha_tp)^2``. It is low if every position gets
    some attention in the course of a caption.

    Args:
        attention: Attention weights of each word, in packed order.
        sizes: Number of captions at each step.
    """
    total = attention.new_zeros(sizes[0], attention.shape[1])
    for weights in attention.split(list(sizes)):
        rest = total.new_zeros(len(total) - len(weights), total.shape[1])
        total = total + torch.cat([weights, rest])
    return (1 - total).square().sum(1).mean()
