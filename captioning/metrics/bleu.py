"""BLEU as this field computes it: corpus counts, closest reference length, a tiny epsilon.

Papineni et al. (2002), BLEU: a method for automatic evaluation of machine translation. The
arithmetic (geometric mean of precisions times NLTK's brevity penalty) is NLTK's ``corpus_bleu``;
the epsilons are those of the official scorer, which has them instead of smoothing.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from captioning.metrics.ngrams import ORDER, NgramCounts

_TINY, _SMALL = 1e-15, 1e-9  # added above and below each precision by the official scorer


@dataclass(frozen=True)
class BleuCounts:
    """What BLEU is computed from. Counts of parts add up to counts of the whole."""

    guess: tuple[int, int, int, int]
    """N-grams of 1 to 4 words in the candidates."""
    correct: tuple[int, int, int, int]
    """Those of them that a reference holds, each counted as often as one reference has it."""
    candidate_length: int
    """Words of the candidates."""
    reference_length: int
    """Words of the references closest in length."""

    def __add__(self, other: "BleuCounts") -> "BleuCounts":
        return counts_of(row_of(self) + row_of(other))

    def bleu(self) -> tuple[float, float, float, float]:
        """Return BLEU-1 to BLEU-4, each between 0 and 1."""
        from nltk.translate.bleu_score import brevity_penalty

        penalty = brevity_penalty(self.reference_length, self.candidate_length)
        log_precision = 0.0
        scores = []
        for n, (correct, guess) in enumerate(zip(self.correct, self.guess, strict=True), start=1):
            log_precision += math.log((correct + _TINY) / (guess + _SMALL))
            scores.append(penalty * math.exp(log_precision / n))
        return (scores[0], scores[1], scores[2], scores[3])


def row_of(counts: BleuCounts) -> Int[np.ndarray, "10"]:
    """Return the ten counts as one row: guess, correct, the two lengths."""
    return np.array(
        [*counts.guess, *counts.correct, counts.candidate_length, counts.reference_length]
    )


def counts_of(row: Int[np.ndarray, "10"]) -> BleuCounts:
    """Return the counts whose :func:`row_of` is ``row``."""
    c = [int(value) for value in row]
    return BleuCounts((c[0], c[1], c[2], c[3]), (c[4], c[5], c[6], c[7]), c[8], c[9])


def bleu_rows(
    ngrams: list[NgramCounts],
    lengths: Int[np.ndarray, " captions"],
    image: Int[np.ndarray, " captions"],
    images: int,
) -> Int[np.ndarray, "images 10"]:
    """Count for each image what BLEU needs.

    Args:
        ngrams: Of all captions: first one candidate for each image, then all references.
        lengths: Words of each caption.
        image: The place of the image that each caption belongs to.
        images: How many images there are.

    Returns:
        A row as :func:`row_of` gives it for each image.
    """
    rows = np.zeros((images, 10), dtype=np.int64)
    candidate, reference = lengths[:images], lengths[images:]
    for n, table in enumerate(ngrams):
        rows[:, n] = np.maximum(candidate - n, 0)
        rows[:, ORDER + n] = _correct(table, image, images)
    rows[:, 8] = candidate
    of = image[images:]
    # The closest length, and of two equally close ones the shorter.
    order = np.lexsort((reference, np.abs(reference - candidate[of]), of))
    rows[:, 9] = reference[order][np.searchsorted(of[order], np.arange(images))]
    return rows


def _correct(
    table: NgramCounts, image: Int[np.ndarray, " captions"], images: int
) -> Int[np.ndarray, " images"]:
    distinct = max(len(table.first), 1)
    key = image[table.captions] * distinct + table.ngrams
    of_candidate = table.captions < images
    keys, counts = key[of_candidate], table.counts[of_candidate]
    place = np.searchsorted(keys, key[~of_candidate])
    place = np.minimum(place, max(len(keys) - 1, 0))
    most = np.zeros(len(keys), dtype=np.int64)
    if len(keys):
        known = keys[place] == key[~of_candidate]
        np.maximum.at(most, place[known], table.counts[~of_candidate][known])
    return np.bincount(
        image[table.captions[of_candidate]], np.minimum(most, counts), images
    ).astype(np.int64)


def bleu_table(rows: Int[np.ndarray, "images 10"]) -> Float[np.ndarray, "images 4"]:
    """Return BLEU-1 to BLEU-4 of each row."""
    correct, guess = rows[:, 4:8] + _TINY, rows[:, :4] + _SMALL
    mean_log = np.cumsum(np.log(correct / guess), axis=1) / np.arange(1, 5)
    candidate, reference = rows[:, 8:9], rows[:, 9:10]
    penalty = np.where(
        candidate > 0, np.exp(np.minimum(1 - reference / np.maximum(candidate, 1), 0)), 0
    )
    return penalty * np.exp(mean_log)
