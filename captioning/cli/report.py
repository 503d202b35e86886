"""What evaluate and score print: scores, then what helps to trust them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from captioning.metrics import DocumentFrequency, Scores, measure_diversity, score_shuffled

_FEWEST = 2  # images that can be shuffled


@dataclass(frozen=True)
class Report:
    """The scores of one set of captions, with their sanity beside them."""

    scores: Scores
    captions: Mapping[int, str]
    references: Mapping[int, Sequence[str]]
    signature: str
    """Every choice that moved a number."""
    training: Sequence[str] | None = None
    """The captions that the model was trained on, where they are known."""
    document_frequency: DocumentFrequency | None = None
    """The table that weighs CIDEr's words, where it is not the references."""

    def table(self) -> str:
        """Return a table to read; scores times 100, with 95 % bootstrap intervals."""
        lines = self.scores.table(self.scores.intervals()).splitlines()
        variety = measure_diversity(self.captions, training=self.training)
        parts = ["\n".join(lines[:-1]), variety.table()]
        if len(self.captions) >= _FEWEST:
            other = self._shuffled()
            shown = ", ".join(f"{name} {100 * value:.2f}" for name, value in _main(other).items())
            parts.append(f"with the images shuffled: {shown}")
        return "\n\n".join([*parts, self.signature])

    def as_json(self) -> str:
        """Return the same as JSON; scores between 0 and 1."""
        intervals = {
            name: {"low": interval.low, "high": interval.high}
            for name, interval in self.scores.intervals().items()
        }
        content = {
            **self.scores.as_dict(),
            "intervals": intervals,
            "diversity": measure_diversity(self.captions, training=self.training).as_dict(),
            "signature": self.signature,
        }
        if len(self.captions) >= _FEWEST:
            content["shuffled"] = _main(self._shuffled())
        return json.dumps(content, indent=2)

    def _shuffled(self) -> Scores:
        return score_shuffled(
            self.captions, self.references, document_frequency=self.document_frequency
        )


def _main(scores: Scores) -> dict[str, float]:
    named = {"BLEU-4": scores.bleu_4, "CIDEr": scores.cider}
    return {name: value for name, value in named.items() if value is not None}
