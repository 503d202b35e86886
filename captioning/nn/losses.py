"""What teacher forcing minimises."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class CaptionLoss:
    """The loss of one batch.

    Attributes:
        loss: Mean smoothed cross-entropy per word, in nats, with its graph.
        nll: Mean negative log-likelihood per word, in nats, without smoothing or graph.
        words: Words that were counted, ``<eos>`` included.
        reward: Mean reward of the sampled captions; None for teacher forcing.
    """

    loss: Float[Tensor, ""]
    nll: Float[Tensor, ""]
    words: int
    reward: float | None = None


def cross_entropy(
    logits: Float[Tensor, "M V"], targets: Int[Tensor, " M"], *, label_smoothing: float = 0.0
) -> CaptionLoss:
    """Return the cross-entropy of real words; a packed batch holds no others.

    With label smoothing s (Szegedy et al. 2016, section 7) the target gives 1 - s to the word of
    the caption and spreads s evenly over all words::

        loss = -(1 - s) log p(w) - s mean_w' log p(w')

    Args:
        logits: One row per word.
        targets: The words.
        label_smoothing: s.
    """
    log_probs = torch.log_softmax(logits.float(), 1)
    nll = -log_probs.gather(1, targets.unsqueeze(1)).mean()
    loss = nll
    if label_smoothing:
        loss = (1 - label_smoothing) * nll - label_smoothing * log_probs.mean()
    return CaptionLoss(loss, nll.detach(), len(targets))


def reconstruction_error(
    found: Float[Tensor, "M D"], vectors: Float[Tensor, "N D"], sizes: Sequence[int]
) -> Float[Tensor, ""]:
    """Return the squared error of what was reconstructed, as a share of the vectors' mean square.

    Chen & Zitnick (2015), section 3.1, have v and its reconstruction differ as little as they can
    after each word.

    Args:
        found: After each word, in packed order.
        vectors: The image vector of each caption, longest caption first.
        sizes: Captions that have a word at each step.
    """
    wanted = torch.cat([vectors[:count] for count in sizes]).float()
    return (found.float() - wanted).square().mean() / wanted.square().mean()


def doubly_stochastic(attention: Float[Tensor, "M P"], sizes: Sequence[int]) -> Float[Tensor, ""]:
    """Return how far the attention to each position, summed over a caption, is from one.

    Xu et al. (2015), section 4.2.1: ``sum_p (1 - sum_t alpha_tp)^2``, here its mean over captions:
    in the course of a caption every position should get some attention.

    Args:
        attention: Of each word, in packed order.
        sizes: Captions that have a word at each step.
    """
    total = attention.new_zeros(sizes[0], attention.shape[1])
    for weights in attention.split(list(sizes)):
        rest = total.new_zeros(len(total) - len(weights), total.shape[1])
        total = total + torch.cat([weights, rest])
    return (1 - total).square().sum(1).mean()
