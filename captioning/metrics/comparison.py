"""Is one system better than another, or was it the images?"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from captioning.metrics.cider import DocumentFrequency
from captioning.metrics.inputs import Candidates, References, as_candidates, as_references
from captioning.metrics.resampling import draws, resampled, swapped
from captioning.metrics.scores import NAMES, Scores, score


@dataclass(frozen=True)
class Difference:
    """How two systems differ in one score: between 0 and 1 (CIDEr 10), in tables times 100."""

    a: float
    b: float
    low: float
    """Lower end of the bootstrap interval of ``a - b`` (95 %)."""
    high: float
    """Upper end of it."""
    p_bootstrap: float
    """Two-sided p-value of the paired bootstrap."""
    p_randomisation: float
    """Two-sided p-value of approximate randomisation."""

    @property
    def delta(self) -> float:
        """``a - b``."""
        return self.a - self.b


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """What :func:`compare` found. A notebook shows the table; equal is only the same object."""

    a: Scores
    b: Scores
    differences: Mapping[str, Difference]
    """For each score that is defined, by its name (``"bleu_4"``, ``"cider"``)."""
    samples: int
    seed: int

    def __repr__(self) -> str:
        return self.table()

    def table(self) -> str:
        """Return the differences, times 100, as a table to read."""
        lines = [f"{'':<8} {'A':>7} {'B':>7} {'A-B':>7}   95 % interval      p boot.  p rand."]
        for name, d in self.differences.items():
            interval = f"[{100 * d.low:+.2f}, {100 * d.high:+.2f}]"
            lines.append(
                f"{NAMES[name]:<8} {100 * d.a:7.2f} {100 * d.b:7.2f} {100 * d.delta:+7.2f}"
                f"   {interval:<18} {d.p_bootstrap:.4f}   {d.p_randomisation:.4f}"
            )
        return "\n".join([*lines, f"{self.a.signature}|samples:{self.samples}|seed:{self.seed}"])


def compare(
    a: Candidates,
    b: Candidates,
    references: References,
    *,
    document_frequency: DocumentFrequency | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compare two systems on the same images.

    Two tests of "they are equally good": the paired bootstrap (Koehn, 2004) draws images with
    replacement; approximate randomisation (Riezler & Maxwell, 2005) swaps the two captions of an
    image with probability one half. The smaller ``samples``, the larger the smallest p-value.

    Args:
        a: A caption for each image id, as :func:`~captioning.metrics.score` takes them.
        b: The other system's.
        references: One or more captions for each of the same ids.
        document_frequency: As in :func:`~captioning.metrics.score`.
        samples: Of each test.
        seed: Of the draws.

    Raises:
        ScoreError: One of the two cannot be scored, or there is to be no sample.
    """
    a, b = as_candidates(a, "a"), as_candidates(b, "b")
    references = as_references(references)  # once: a generator gives its captions only once
    scores_a = score(a, references, document_frequency=document_frequency)
    scores_b = score(b, references, document_frequency=document_frequency)
    names = list(scores_a.values)
    weights = draws(len(scores_a), samples, seed)
    drawn_a = resampled(scores_a.per_image, names, weights)
    drawn_b = resampled(scores_b.per_image, names, weights)
    chosen = np.random.default_rng([seed, 1]).integers(0, 2, size=(samples, len(scores_a)))
    mixed = swapped(scores_a.per_image, scores_b.per_image, names, chosen)
    differences = {
        name: _difference(
            scores_a.values[name], scores_b.values[name], drawn_a[name] - drawn_b[name], mixed[name]
        )
        for name in names
    }
    return Comparison(scores_a, scores_b, differences, samples, seed)


def _difference(a: float, b: float, drawn: np.ndarray, mixed: np.ndarray) -> Difference:
    low, high = np.quantile(drawn, [0.025, 0.975])
    # One is added above and below: the observed captions are themselves one of the cases.
    below, above = np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0)
    p_bootstrap = min(1.0, 2 * (1 + min(below, above)) / (1 + len(drawn)))
    # Scores of swapped sets differ from a - b by rounding even where nothing was swapped.
    extreme = np.count_nonzero(np.abs(mixed) >= abs(a - b) - 1e-12)
    return Difference(
        a, b, float(low), float(high), p_bootstrap, float((1 + extreme) / (1 + len(mixed)))
    )
