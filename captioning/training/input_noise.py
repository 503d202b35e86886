"""Noise on the input words of teacher forcing: word dropout and scheduled sampling."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from captioning.nn.shared_draws import draw_rows


def apply_word_dropout(
    tokens: PackedSequence, probability: float, *, unk: int, bos: int
) -> PackedSequence:
    """Replace random words by ``<unk>``, so that the decoder relies on the image.

    Bowman et al. (2016), section 3.1.

    Args:
        tokens: Packed captions from ``<bos>`` on.
        probability: Probability of replacing a word.
        unk: Id of ``<unk>``.
        bos: Id of ``<bos>``, which is never replaced.
    """
    dropped = _draw_uniform(tokens.data) < probability
    dropped &= tokens.data != bos
    return tokens._replace(data=tokens.data.masked_fill(dropped, unk))


def apply_scheduled_sampling(
    tokens: PackedSequence,
    logits: Float[Tensor, "M V"],
    probability: float,
    *,
    excluded: Sequence[int] = (),
) -> PackedSequence:
    """Replace random words by samples of the decoder's own predictions (scheduled sampling).

    Bengio et al. (2015), section 2.4, in the parallel form of Mihaylova & Martins (2019): all
    samples come from one teacher-forced pass, and the second pass reads them.

    Args:
        tokens: Packed captions from ``<bos>`` on.
        logits: Predictions after each of the ``M`` tokens, in packed order.
        probability: Probability of replacing a word. ``<bos>`` is never replaced.
        excluded: Ids that are never sampled.
    """
    sizes = tokens.batch_sizes.tolist()
    logits = logits.detach().float()
    if excluded:
        logits = logits.index_fill(1, torch.tensor(excluded, device=logits.device), -torch.inf)
    sampled = _draw_words(logits.softmax(1))
    # A prediction after step t is the input of step t + 1, for the captions that have one.
    predictions = zip(sampled.split(sizes), sizes[1:], strict=False)
    inputs = [tokens.data[: sizes[0]], *(words[:count] for words, count in predictions)]
    replaced = _draw_uniform(sampled) < probability
    return tokens._replace(data=torch.where(replaced, torch.cat(inputs), tokens.data))


def _draw_uniform(tokens: Int[Tensor, " M"]) -> Float[Tensor, " M"]:
    """Return one number in [0, 1) per token."""
    return draw_rows("tokens", len(tokens), lambda count: torch.rand(count, device=tokens.device))


def _draw_words(p: Float[Tensor, "M V"]) -> Int[Tensor, " M"]:
    """Draw one word per row, as ``torch.multinomial`` does.

    p(w) / E(w) is largest for a word w with probability p(w), if all E are exponentially
    distributed with the rate 1.
    """
    exponential = draw_rows(
        "tokens", len(p), lambda count: p.new_empty(count, p.shape[1]).exponential_()
    )
    return (p / exponential).argmax(1)
