"""Report of ``evaluate`` and ``score``: scores, diversity and the shuffled-image baseline."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from captioning.metrics import (
    Diversity,
    DocumentFrequency,
    Scores,
    measure_diversity,
    score_shuffled,
)
from captioning.text.ngrams import ImageId


@dataclass(frozen=True)
class Report:
    """Scores of a set of captions, with checks of their plausibility."""

    scores: Scores
    captions: Mapping[ImageId, str]
    references: Mapping[ImageId, Sequence[str]]
    signature: str
    """All choices that affect the scores."""
    training: Sequence[str] | None = None
    """Training captions of the model, if known."""
    document_frequency: DocumentFrequency | None = None
    """For CIDEr; None counts document frequencies over the references."""

    def table(self) -> str:
        """Return a text table: scores times 100, with 95 % bootstrap intervals."""
        lines = self.scores.table(self.scores.intervals()).splitlines()
        # The last line, a signature, is left out: the report ends with its own.
        diversity = self._measure_diversity()
        parts = ["\n".join(lines[:-1]), diversity.table()]
        if baseline := self._score_baseline():
            values = ", ".join(f"{name} {100 * value:.2f}" for name, value in baseline.items())
            parts.append(f"Shuffled-image baseline: {values}")
        return "\n\n".join([*parts, self.signature])

    def as_json(self) -> str:
        """Return the content of the table as JSON, scores not times 100 (CIDEr from 0 to 10)."""
        content = {
            **self.scores.as_dict(),
            "intervals": {
                name: {"low": interval.low, "high": interval.high}
                for name, interval in self.scores.intervals().items()
            },
            "diversity": self._measure_diversity().as_dict(),
            "signature": self.signature,
        }
        if baseline := self._score_baseline():
            content["shuffled_image_baseline"] = baseline
        return json.dumps(content, indent=2)

    def _measure_diversity(self) -> Diversity:
        return measure_diversity(
            self.captions, training=self.training, tokenizer=self.scores.tokenizer
        )

    def _score_baseline(self) -> dict[str, float]:
        """Return BLEU-4 and CIDEr of the baseline.

        Empty for one image: there is no other image to swap captions with.
        """
        if len(self.captions) < 2:
            return {}
        scores = score_shuffled(
            self.captions,
            self.references,
            document_frequency=self.document_frequency,
            tokenizer=self.scores.tokenizer,
        )
        values = {"BLEU-4": scores.bleu_4, "CIDEr": scores.cider}
        return {name: value for name, value in values.items() if value is not None}
