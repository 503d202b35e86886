"""Bootstrap intervals and resampled scores."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from captioning.errors import ScoreError
from captioning.metrics.bleu import compute_bleu

BLEU_COLUMNS = [
    *(f"guess_{n}" for n in range(1, 5)),
    *(f"correct_{n}" for n in range(1, 5)),
    "length",
    "reference_length",
]
"""Columns of :attr:`Scores.per_image` with the row of :class:`~captioning.metrics.BleuCounts`."""


@dataclass(frozen=True)
class Interval:
    """A bootstrap confidence interval."""

    low: float
    high: float
    confidence: float


def draw_weights(images: int, samples: int, seed: int) -> Int[np.ndarray, "samples images"]:
    """Return the number of times that each bootstrap sample contains each image.

    Raises:
        ScoreError: ``samples`` is smaller than 1, or ``seed`` is negative.
    """
    if samples < 1 or seed < 0:
        raise ScoreError(
            f"samples is {samples} and seed is {seed}; samples must be at least 1 and seed at "
            "least 0."
        )
    generator = np.random.default_rng(seed)
    return generator.multinomial(images, np.full(images, 1 / images), size=samples)


def resample_scores(
    per_image: pd.DataFrame, names: list[str], weights: Int[np.ndarray, "samples images"]
) -> dict[str, Float[np.ndarray, " samples"]]:
    """Return the corpus scores of each sample.

    Args:
        per_image: The table of :class:`~captioning.metrics.Scores`.
        names: Names of the scores.
        weights: Number of times that each sample contains each image.
    """
    weight = weights.astype(np.float64)  # the product of floats is faster than that of integers
    counts = np.rint(weight @ per_image[BLEU_COLUMNS].to_numpy(np.float64))
    bleu = compute_bleu(counts.astype(np.int64))
    scores = {}
    for name in names:
        if name.startswith("bleu_"):
            scores[name] = bleu[:, int(name[-1]) - 1]
        else:
            scores[name] = weight @ per_image[name].to_numpy(np.float64) / weight.sum(axis=1)
    return scores


def swap_scores(
    a: pd.DataFrame, b: pd.DataFrame, names: list[str], swap: Int[np.ndarray, "samples images"]
) -> dict[str, Float[np.ndarray, " samples"]]:
    """Return ``a - b`` of each score after exchanging the images where ``swap`` is 1."""
    both = pd.concat([a, b], ignore_index=True)
    left = resample_scores(both, names, np.concatenate([1 - swap, swap], axis=1))
    right = resample_scores(both, names, np.concatenate([swap, 1 - swap], axis=1))
    return {name: left[name] - right[name] for name in names}
