"""More or fewer words for a trained decoder."""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace

import torch

from captioning.nn.decoder import Decoder

_NOISE = 0.1
"""Standard deviation of the noise, relative to the word vectors. It separates the new words."""

WORD_WEIGHTS = ("embedding.weight", "W_rw.weight", "W_rw.bias")
"""Weights of a decoder with one row per word."""


@torch.no_grad()
def extend_vocabulary(decoder: Decoder, vocabulary_size: int, *, like: int) -> Decoder:
    """Return a decoder with more words and the same behavior for the old ones.

    A new word starts as a copy of the word ``like`` with a little noise. With ``<unk>`` as
    ``like``, the decoder expects the new words wherever it expected an unknown word. Together, the
    new words get the probability of ``like``.

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
    extended = _resized(decoder, new)
    weights = extended.state_dict()
    for name, weight in decoder.state_dict().items():
        if name not in WORD_WEIGHTS:
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


@torch.no_grad()
def keep_words(decoder: Decoder, words: Sequence[int]) -> Decoder:
    """Return a decoder with some of the words and the same behavior for them.

    The probability of the other words is divided among those that are kept.

    Args:
        decoder: Source of the weights; it is not changed.
        words: Ids of the words to keep. A word gets its position in this list as its new id.

    Raises:
        ValueError: A concept of the decoder is not among the words.
    """
    kept = torch.as_tensor(words, device=decoder.embedding.weight.device)
    smaller = _resized(decoder, len(words))
    weights = decoder.state_dict()
    weights |= {name: weights[name][kept] for name in WORD_WEIGHTS if name in weights}
    if decoder.concepts is not None:
        new_ids = {word: index for index, word in enumerate(words)}
        concepts = decoder.concepts.words.tolist()
        if missing := [word for word in concepts if word not in new_ids]:
            raise ValueError(f"the words {missing} are concepts of the decoder; keep them too")
        weights["concepts.words"] = torch.tensor([new_ids[word] for word in concepts])
    smaller.load_state_dict(weights)
    return smaller.to(kept.device)


def _resized(decoder: Decoder, vocabulary_size: int) -> Decoder:
    sizes = replace(decoder.sizes, vocabulary_size=vocabulary_size)
    return Decoder(decoder.config, **asdict(sizes))
