"""What evaluate and score print: scores, then what helps to trust them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from captioning.metrics import Scores, diversity, shuffled

_FEWEST = 2  # images that can be shuffled


@dataclass(frozen=True)
class Report:
    """The scores of one set of captions, with their sanity beside them."""

    scores: Scores
    captions: Mapping[int, str]
    references: Mapping[int, Sequence[str]]
    signature: str
    """Every choice that moved a number."""

    def table(self) -> str:
        """Return a table to read; scores times 100, with 95 % bootstrap intervals."""
        lines = self.scores.table(self.scores.intervals()).splitlines()
        parts = ["\n".join(lines[:-1]), diversity(self.captions).table()]
        if len(self.captions) >= _FEWEST:
            other = shuffled(self.captions, self.references)
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
            "diversity": diversity(self.captions).as_dict(),
            "signature": self.signature,
        }
        if len(self.captions) >= _FEWEST:
            content["shuffled"] = _main(shuffled(self.captions, self.references))
        return json.dumps(content, indent=2)


def _main(scores: Scores) -> dict[str, float]:
    named = {"BLEU-4": scores.bleu_4, "CIDEr": scores.cider}
    return {name: value for name, value in named.items() if value is not None}
