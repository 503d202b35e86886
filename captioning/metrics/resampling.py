"""How far scores depend on the images that happened to be drawn."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from captioning.errors import ScoreError
from captioning.metrics.bleu import bleu_table

_BLEU_COLUMNS = [
    *(f"guess_{n}" for n in range(1, 5)),
    *(f"correct_{n}" for n in range(1, 5)),
    "length",
    "reference_length",
]


@dataclass(frozen=True)
class Interval:
    """A bootstrap interval."""

    low: float
    high: float
    confidence: float


def bootstrap(
    per_image: pd.DataFrame,
    values: Mapping[str, float],
    confidence: float,
    samples: int,
    seed: int,
) -> dict[str, Interval]:
    """Return the interval of each score named in ``values``; see ``Scores.intervals``."""
    weights = draws(len(per_image), samples, seed)
    tail = (1 - confidence) / 2
    intervals = {}
    for name, sampled in resampled(per_image, list(values), weights).items():
        low, high = np.quantile(sampled, [tail, 1 - tail])
        intervals[name] = Interval(float(low), float(high), confidence)
    return intervals


def draws(images: int, samples: int, seed: int) -> Int[np.ndarray, "samples images"]:
    """Return how often each image is drawn in each bootstrap sample.

    Raises:
        ScoreError: There is to be no sample, or the seed is below zero.
    """
    if samples < 1 or seed < 0:
        raise ScoreError(
            f"samples is {samples} and seed {seed}; samples is at least 1 and seed at least 0."
        )
    generator = np.random.default_rng(seed)
    return generator.multinomial(images, np.full(images, 1 / images), size=samples)


def resampled(
    per_image: pd.DataFrame, names: list[str], weights: Int[np.ndarray, "samples images"]
) -> dict[str, Float[np.ndarray, " samples"]]:
    """Return each score of each sample.

    Args:
        per_image: The table of ``Scores``.
        names: Columns to score.
        weights: How often each image counts in each sample.
    """
    weight = weights.astype(np.float64)
    counts = np.rint(weight @ per_image[_BLEU_COLUMNS].to_numpy(np.float64))  # float BLAS is fast
    bleu = bleu_table(counts.astype(np.int64))
    found = {}
    for name in names:
        if name.startswith("bleu_"):
            found[name] = bleu[:, int(name[-1]) - 1]
        else:
            found[name] = weight @ per_image[name].to_numpy(np.float64) / weight.sum(axis=1)
    return found


def swapped(
    a: pd.DataFrame, b: pd.DataFrame, names: list[str], chosen: Int[np.ndarray, "samples images"]
) -> dict[str, Float[np.ndarray, " samples"]]:
    """Return ``a - b`` of each score after swapping the images where ``chosen`` is 1."""
    both = pd.concat([a, b], ignore_index=True)
    left = resampled(both, names, np.concatenate([1 - chosen, chosen], axis=1))
    right = resampled(both, names, np.concatenate([chosen, 1 - chosen], axis=1))
    return {name: left[name] - right[name] for name in names}
