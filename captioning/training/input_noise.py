"""What the decoder reads in training in place of the words that people wrote."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


def apply_word_dropout(
    tokens: PackedSequence, chance: float, *, unknown: int, first: int
) -> PackedSequence:
    """Replace words by ``<unk>``, so that the decoder leans on the image (Bowman et al. 2016).

    Args:
        tokens: Packed captions from ``first`` on.
        chance: With which each word is replaced.
        unknown: The id of ``<unk>``.
        first: The id of ``<bos>``, which stays.
    """
    dropped = torch.rand(len(tokens.data), device=tokens.data.device) < chance
    dropped &= tokens.data != first
    return tokens._replace(data=tokens.data.masked_fill(dropped, unknown))


def apply_scheduled_sampling(
    tokens: PackedSequence,
    logits: Float[Tensor, "M V"],
    chance: float,
    *,
    banned: Sequence[int] = (),
) -> PackedSequence:
    """Replace words by what the decoder itself would have said there (scheduled sampling).

    Bengio et al. (2015), section 2.4, in the parallel form of Mihaylova & Martins (2019): the
    samples are drawn from one pass over the written captions, so that all words of the second pass
    are known before it.

    Args:
        tokens: Packed captions from ``<bos>`` on.
        logits: What the decoder says after each of them, in packed order.
        chance: With which each word but the first is replaced.
        banned: Ids that are never sampled.
    """
    sizes = tokens.batch_sizes.tolist()
    logits = logits.detach().float()
    if banned:
        logits = logits.index_fill(1, torch.tensor(banned, device=logits.device), -torch.inf)
    drawn: Int[Tensor, " M"] = torch.multinomial(logits.softmax(1), 1).squeeze(1)
    # The word after step t is read at step t + 1, by the captions that are still going on.
    said = [after[:count] for after, count in zip(drawn.split(sizes), sizes[1:], strict=False)]
    said = [tokens.data[: sizes[0]], *said]
    replaced = torch.rand(len(drawn), device=drawn.device) < chance
    return tokens._replace(data=torch.where(replaced, torch.cat(said), tokens.data))
