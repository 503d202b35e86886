"""BLEU as caption evaluation computes it: corpus counts, closest reference length, epsilons.

Papineni et al. (2002), BLEU: a method for automatic evaluation of machine translation. The
arithmetic (geometric mean of precisions times the brevity penalty) is that of NLTK's
``corpus_bleu``. The epsilons are those of pycocoevalcap, which uses them instead of smoothing.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from captioning.text.ngrams import ORDER, NgramCounts

_NUMERATOR_EPSILON, _DENOMINATOR_EPSILON = 1e-15, 1e-9  # of each precision


@dataclass(frozen=True)
class BleuCounts:
    """The counts behind BLEU. Counts of disjoint sets of images add up."""

    guess: tuple[int, int, int, int]
    """N-grams of 1 to 4 words in the candidates."""
    correct: tuple[int, int, int, int]
    """N-grams that also occur in a reference, clipped to the count of one reference."""
    candidate_length: int
    """Words of the candidates."""
    reference_length: int
    """Words of the references with the closest length."""

    @classmethod
    def from_row(cls, row: Int[np.ndarray, "10"]) -> "BleuCounts":
        """Return the counts of a row as :meth:`to_row` returns it."""
        c = [int(value) for value in row]
        return cls((c[0], c[1], c[2], c[3]), (c[4], c[5], c[6], c[7]), c[8], c[9])

    def to_row(self) -> Int[np.ndarray, "10"]:
        """Return guess (4), correct (4), candidate length and reference length as one row."""
        return np.array([*self.guess, *self.correct, self.candidate_length, self.reference_length])

    def __add__(self, other: "BleuCounts") -> "BleuCounts":
        return BleuCounts.from_row(self.to_row() + other.to_row())

    def bleu(self) -> tuple[float, float, float, float]:
        """Return BLEU-1 to BLEU-4, each between 0 and 1."""
        one, two, three, four = compute_bleu(self.to_row()[None])[0].tolist()
        return (one, two, three, four)


def count_bleu(
    ngrams: list[NgramCounts],
    lengths: Int[np.ndarray, " captions"],
    image_index: Int[np.ndarray, " captions"],
    image_count: int,
) -> Int[np.ndarray, "images 10"]:
    """Return the counts behind BLEU for each image, in the layout of :meth:`BleuCounts.to_row`.

    Args:
        ngrams: N-grams of all captions: one candidate per image, then all references.
        lengths: Number of words of each caption.
        image_index: Index of the image of each caption.
        image_count: Number of images.
    """
    rows = np.zeros((image_count, 10), dtype=np.int64)
    candidate, reference = lengths[:image_count], lengths[image_count:]
    for n, table in enumerate(ngrams):
        rows[:, n] = np.maximum(candidate - n, 0)
        rows[:, ORDER + n] = _count_correct(table, image_index, image_count)
    rows[:, 8] = candidate
    owner = image_index[image_count:]
    # The reference of the closest length; the shorter one if two are equally close.
    order = np.lexsort((reference, np.abs(reference - candidate[owner]), owner))
    rows[:, 9] = reference[order][np.searchsorted(owner[order], np.arange(image_count))]
    return rows


def _count_correct(
    table: NgramCounts, image_index: Int[np.ndarray, " captions"], image_count: int
) -> Int[np.ndarray, " images"]:
    distinct = max(len(table.first), 1)
    key = image_index[table.captions] * distinct + table.ngrams
    is_candidate = table.captions < image_count
    keys, counts = key[is_candidate], table.counts[is_candidate]
    position = np.searchsorted(keys, key[~is_candidate])
    position = np.minimum(position, max(len(keys) - 1, 0))
    limit = np.zeros(len(keys), dtype=np.int64)
    if len(keys):
        found = keys[position] == key[~is_candidate]
        np.maximum.at(limit, position[found], table.counts[~is_candidate][found])
    owner = image_index[table.captions[is_candidate]]
    return np.bincount(owner, np.minimum(limit, counts), image_count).astype(np.int64)


def compute_bleu(rows: Int[np.ndarray, "rows 10"]) -> Float[np.ndarray, "rows 4"]:
    """Return BLEU-1 to BLEU-4 of each row of counts (see :meth:`BleuCounts.to_row`)."""
    correct, guess = rows[:, 4:8] + _NUMERATOR_EPSILON, rows[:, :4] + _DENOMINATOR_EPSILON
    mean_log = np.cumsum(np.log(correct / guess), axis=1) / np.arange(1, 5)
    candidate, reference = rows[:, 8:9], rows[:, 9:10]
    penalty = np.where(
        candidate > 0, np.exp(np.minimum(1 - reference / np.maximum(candidate, 1), 0)), 0
    )
    return penalty * np.exp(mean_log)
