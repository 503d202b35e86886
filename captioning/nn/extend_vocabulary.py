"""A decoder that learns new words keeps what it knows."""

import math
from dataclasses import replace

import torch

from captioning.nn.decoder import Decoder

_NOISE = 0.1  # of the spread of the word vectors; without it, new words would stay alike


@torch.no_grad()
def extend_vocabulary(decoder: Decoder, vocabulary_size: int, *, like: int) -> Decoder:
    """Return a decoder with more words, on the same device, that does the same with the old ones.

    A new word begins as the word ``like`` with a little noise: ``<unk>`` is what the decoder took
    it for so far, so it is already expected where unknown words stood. Its share of the
    probability is that of ``like``, divided by the number of new words.

    Args:
        decoder: Whose weights are copied.
        vocabulary_size: Words afterwards; the new ones come after the old.
        like: The id of the word that the new ones begin as.
    """
    old, new = decoder.config.vocabulary_size, vocabulary_size
    if new == old:
        return decoder
    larger = Decoder(replace(decoder.config, vocabulary_size=new))
    weights = larger.state_dict()
    for name, weight in decoder.state_dict().items():
        if name not in ("embedding.weight", "W_rw.weight", "W_rw.bias"):
            weights[name] = weight
            continue
        begun = weight[like].expand(new - old, *weight.shape[1:]).clone()
        if weight.ndim > 1:
            begun += _NOISE * weight.std() * torch.randn_like(begun)
        else:
            begun -= math.log(new - old)
        weights[name] = torch.cat([weight, begun])
    larger.load_state_dict(weights)
    return larger.to(decoder.embedding.weight.device)
