"""Extension of a trained decoder by new words."""

import math
from dataclasses import asdict, replace

import torch

from captioning.nn.decoder import Decoder

_NOISE = 0.1
"""Standard deviation of the noise, relative to the word vectors. It separates the new words."""


@torch.no_grad()
def extend_vocabulary(decoder: Decoder, vocabulary_size: int, *, like: int) -> Decoder:
    """Return a decoder with more words and the same behavior for the old ones.

    A new word starts as a copy of the word ``like`` with a little noise. With ``<unk>`` as ``like``
    it is expected wherever the decoder expected an unknown word. Together, the new words get the
    probability of ``like``.

    Args:
        decoder: Source of the weights; it is not changed.
        vocabulary_size: New number of words. New ids follow the old ones.
        like: Id of the word whose weights initialize the new words.

    Returns:
        The extended decoder on the same device, or ``decoder`` itself if no word is new.
    """
    old, new = decoder.sizes.vocabulary_size, vocabulary_size
    if new == old:
        return decoder
    extended = Decoder(
        decoder.config, **asdict(replace(decoder.sizes, vocabulary_size=vocabulary_size))
    )
    weights = extended.state_dict()
    for name, weight in decoder.state_dict().items():
        if name not in ("embedding.weight", "W_rw.weight", "W_rw.bias"):
            weights[name] = weight
            continue
        added = weight[like].expand(new - old, *weight.shape[1:]).clone()
        if weight.ndim > 1:
            added += _NOISE * weight.std() * torch.randn_like(added)
        else:
            added -= math.log(new - old)
        weights[name] = torch.cat([weight, added])
    extended.load_state_dict(weights)
    return extended.to(decoder.embedding.weight.device)
