"""Counting n-grams of many captions at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

ORDER = 4
"""The longest n-grams that BLEU and CIDEr look at."""

ImageId = Any
"""Any hashable value. A mapping's keys are invariant: ``Mapping[Hashable, str]`` would refuse a
``dict[int, str]``."""


def split_at_blanks(words: list[str]) -> list[str]:
    """Split words at the blanks inside them, as the official BLEU and CIDEr (not ROUGE) do."""
    text = " ".join(words)
    return words if text.isascii() else text.split()


@dataclass(frozen=True)
class NgramCounts:
    """How often each n-gram of one length stands in each caption.

    Rows are sorted by caption and then by n-gram; an n-gram that a caption lacks has no row.
    """

    captions: Int[np.ndarray, " rows"]
    """The caption's place in the list that was counted."""
    ngrams: Int[np.ndarray, " rows"]
    """The n-gram's number, the same for all captions counted together."""
    counts: Int[np.ndarray, " rows"]
    """How often the caption holds the n-gram, one or more."""
    first: Int[np.ndarray, "distinct 2"]
    """For each n-gram number, one place (caption, word) where it begins."""


def count_ngrams(captions: Sequence[Sequence[str]]) -> list[NgramCounts]:
    """Count the n-grams of 1 to 4 words in every caption.

    Args:
        captions: Captions as lists of words.

    Returns:
        One table for each n-gram length.
    """
    lengths = np.array([len(caption) for caption in captions], dtype=np.int64)
    numbers: dict[str, int] = {}
    flat = np.array(
        [numbers.setdefault(word, len(numbers)) for caption in captions for word in caption],
        dtype=np.int64,
    )
    owner = np.repeat(np.arange(len(captions)), lengths)
    place = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    left = lengths[owner] - place  # words from here to the caption's end
    tables = []
    ids = flat
    for n in range(1, ORDER + 1):
        if n > 1:
            # An n-gram is an (n-1)-gram and a word; numbering anew keeps the product small.
            longer = left[: len(ids)] >= n
            ids = np.where(longer, ids * len(numbers) + np.roll(flat, 1 - n)[: len(ids)], -1)
        inside = left >= n
        distinct, first, renumbered = np.unique(ids[inside], return_index=True, return_inverse=True)
        ids = np.full(len(flat), -1)
        ids[inside] = renumbered
        tables.append(_counts(owner[inside], place[inside], renumbered, len(distinct), first))
    return tables


def _counts(
    owner: Int[np.ndarray, " places"],
    place: Int[np.ndarray, " places"],
    ngrams: Int[np.ndarray, " places"],
    distinct: int,
    first: Int[np.ndarray, " distinct"],
) -> NgramCounts:
    keys, counts = np.unique(owner * max(distinct, 1) + ngrams, return_counts=True)
    return NgramCounts(
        captions=keys // max(distinct, 1),
        ngrams=keys % max(distinct, 1),
        counts=counts,
        first=np.stack([owner[first], place[first]], axis=1),
    )
