"""Significance tests between two systems that captioned the same images."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from captioning.metrics.resampling import draw_weights, resample_scores, swap_scores
from captioning.metrics.score_inputs import (
    Candidates,
    References,
    check_pairing,
    explain_arguments,
    normalize_candidates,
    normalize_references,
    select_common,
)
from captioning.metrics.scores import SCORE_NAMES, Scores, score
from captioning.text.tokenizers import TokenizerName


@dataclass(frozen=True)
class Difference:
    """One score of two systems, between 0 and 1 (CIDEr: 10). Tables show it times 100."""

    a: float
    b: float
    low: float
    """Lower end of the 95 % bootstrap interval of ``a - b``."""
    high: float
    """Upper end of the interval."""
    p_bootstrap: float
    """Two-sided p-value of the paired bootstrap."""
    p_randomization: float
    """Two-sided p-value of approximate randomization."""

    @property
    def delta(self) -> float:
        """The difference ``a - b``."""
        return self.a - self.b


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Result of :func:`compare`. Comparisons are equal only if they are the same object."""

    a: Scores
    b: Scores
    differences: Mapping[str, Difference]
    """Difference of each defined score, by its name (``"bleu_4"``, ``"cider"``)."""
    samples: int
    seed: int
    notes: tuple[str, ...] = ()
    """Notes on the scores of both systems; see :attr:`Scores.notes`."""

    def __repr__(self) -> str:
        return self.table()

    def table(self) -> str:
        """Return the differences as a text table, scores times 100."""
        scores = f"{'A':>7} {'B':>7} {'A-B':>7}"
        lines = [f"{'':<8} {scores}   95 % interval      p (bootstrap)  p (randomization)"]
        for name, d in self.differences.items():
            interval = f"[{100 * d.low:+.2f}, {100 * d.high:+.2f}]"
            lines.append(
                f"{SCORE_NAMES[name]:<8} {100 * d.a:7.2f} {100 * d.b:7.2f} {100 * d.delta:+7.2f}"
                f"   {interval:<18} {d.p_bootstrap:>13.4f}  {d.p_randomization:>17.4f}"
            )
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, f"{self.a.signature}|samples:{self.samples}|seed:{self.seed}"])


@explain_arguments
def compare(
    a: Candidates,
    b: Candidates,
    references: References,
    *,
    samples: int = 1000,
    seed: int = 0,
    subset: bool = False,
    tokenizer: TokenizerName = "ptb",
) -> Comparison:
    """Compare two systems on the same images.

    Two tests of the hypothesis that both systems are equally good: the paired bootstrap (Koehn,
    2004) draws images with replacement; approximate randomization (Riezler & Maxwell, 2005) swaps
    the two captions of an image with probability 1/2.

    Args:
        a: A caption for each image id, as for :func:`~captioning.metrics.score`.
        b: Captions of the other system.
        references: One or more captions for each of the same ids.
        samples: Samples of each test. The smallest possible p-value of the bootstrap
            is 2 / (1 + ``samples``).
        seed: Seed of the random samples.
        subset: Compare only the images that have both candidates and references.
        tokenizer: As for :func:`~captioning.metrics.score`.

    Raises:
        ScoreError: A system cannot be scored, or ``samples`` or ``seed`` is out of range.
    """
    a, b = normalize_candidates(a, "a"), normalize_candidates(b, "b")
    references = normalize_references(references)  # a generator can be read only once
    note = ""
    if subset:
        note, references, (a, b) = select_common(references, a, b)
    check_pairing(a, references, "a")
    check_pairing(b, references, "b")
    scores_a, scores_b = (score(system, references, tokenizer=tokenizer) for system in (a, b))
    names = list(scores_a.values)
    weights = draw_weights(len(scores_a), samples, seed)
    sampled_a = resample_scores(scores_a.per_image, names, weights)
    sampled_b = resample_scores(scores_b.per_image, names, weights)
    swap = np.random.default_rng([seed, 1]).integers(0, 2, size=(samples, len(scores_a)))
    swapped = swap_scores(scores_a.per_image, scores_b.per_image, names, swap)
    differences = {
        name: _test_difference(
            scores_a.values[name],
            scores_b.values[name],
            sampled_a[name] - sampled_b[name],
            swapped[name],
        )
        for name in names
    }
    notes = [note] if note else []
    notes += [text for text in scores_a.notes if text in scores_b.notes]
    for name, ours, theirs in (("A", scores_a, scores_b), ("B", scores_b, scores_a)):
        notes += [f"{name}: {text}" for text in ours.notes if text not in theirs.notes]
    return Comparison(scores_a, scores_b, differences, samples, seed, tuple(notes))


def _test_difference(a: float, b: float, sampled: np.ndarray, swapped: np.ndarray) -> Difference:
    low, high = np.quantile(sampled, [0.025, 0.975])
    # Numerators and denominators include the observed captions as one more sample.
    below, above = np.count_nonzero(sampled <= 0), np.count_nonzero(sampled >= 0)
    p_bootstrap = min(1.0, 2 * (1 + min(below, above)) / (1 + len(sampled)))
    # The tolerance covers rounding: without any swap, the difference is not exactly a - b.
    extreme = np.count_nonzero(np.abs(swapped) >= abs(a - b) - 1e-12)
    p_randomization = float((1 + extreme) / (1 + len(swapped)))
    return Difference(a, b, float(low), float(high), p_bootstrap, p_randomization)
