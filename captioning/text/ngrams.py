"""N-gram counts of many captions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

ORDER = 4
"""Length of the longest n-grams that BLEU and CIDEr use."""

ImageId = Any
"""Any hashable value. Keys of a mapping are invariant: ``Mapping[Hashable, str]`` would not accept
a ``dict[int, str]``."""


def split_at_spaces(words: list[str]) -> list[str]:
    """Split words at the spaces inside them, as the official BLEU and CIDEr (not ROUGE) do."""
    text = " ".join(words)
    return words if text.isascii() else text.split()


@dataclass(frozen=True)
class NgramCounts:
    """Counts of the n-grams of one length in each caption.

    Rows are sorted by caption and then by n-gram. N-grams with a count of zero have no row.
    """

    captions: Int[np.ndarray, " rows"]
    """Index of the caption."""
    ngrams: Int[np.ndarray, " rows"]
    """Number of the n-gram; equal n-grams have the same number in all captions."""
    counts: Int[np.ndarray, " rows"]
    """Occurrences of the n-gram in the caption, at least one."""
    first: Int[np.ndarray, "distinct 2"]
    """For each n-gram number, one position (caption, word) where the n-gram begins."""


def count_ngrams(captions: Sequence[Sequence[str]]) -> list[NgramCounts]:
    """Count the n-grams of 1 to 4 words in every caption.

    Args:
        captions: Captions as lists of words.

    Returns:
        One table for each length of n-grams.
    """
    lengths = np.array([len(caption) for caption in captions], dtype=np.int64)
    word_ids: dict[str, int] = {}
    flat = np.array(
        [word_ids.setdefault(word, len(word_ids)) for caption in captions for word in caption],
        dtype=np.int64,
    )
    return count_id_ngrams(flat, lengths)


def count_id_ngrams(
    flat: Int[np.ndarray, " words"], lengths: Int[np.ndarray, " captions"]
) -> list[NgramCounts]:
    """Count the n-grams of captions whose words are numbers.

    Args:
        flat: Number of each word (0 or more), one caption after another.
        lengths: Number of words of each caption.

    Returns:
        As :func:`count_ngrams`.
    """
    base = int(flat.max(initial=0)) + 1
    owner = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    remaining = lengths[owner] - position  # words from here to the end of the caption
    tables = []
    ids = flat.astype(np.int64)
    for n in range(1, ORDER + 1):
        if n > 1:
            # An n-gram is an (n-1)-gram and a word. Renumbering keeps the product small.
            longer = remaining[: len(ids)] >= n
            ids = np.where(longer, ids * base + np.roll(flat, 1 - n)[: len(ids)], -1)
        inside = remaining >= n
        distinct, first, renumbered = np.unique(ids[inside], return_index=True, return_inverse=True)
        ids = np.full(len(flat), -1)
        ids[inside] = renumbered
        tables.append(_count(owner[inside], position[inside], renumbered, len(distinct), first))
    return tables


def _count(
    owner: Int[np.ndarray, " positions"],
    position: Int[np.ndarray, " positions"],
    ngrams: Int[np.ndarray, " positions"],
    distinct: int,
    first: Int[np.ndarray, " distinct"],
) -> NgramCounts:
    keys, counts = np.unique(owner * max(distinct, 1) + ngrams, return_counts=True)
    return NgramCounts(
        captions=keys // max(distinct, 1),
        ngrams=keys % max(distinct, 1),
        counts=counts,
        first=np.stack([owner[first], position[first]], axis=1),
    )
