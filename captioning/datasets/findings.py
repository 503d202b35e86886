"""Problems that a check of captioned data found, counted by kind."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Finding:
    """Entries of the data with the same problem.

    Attributes:
        kind: What they have in common, such as ``"empty captions"``.
        count: Their number.
        examples: The first ones.
        loses_data: Training leaves these entries out or refuses the data. False: training uses
            them as they are.
    """

    kind: str
    count: int
    examples: tuple[str, ...]
    loses_data: bool


@dataclass
class Findings:
    """Collects findings; keeps a limited number of examples of each kind.

    Args:
        shown: Number of examples that are kept.
    """

    shown: int
    _counts: Counter[tuple[str, bool]] = field(default_factory=Counter)
    _examples: dict[tuple[str, bool], list[str]] = field(default_factory=dict)

    def add(self, kind: str, example: str, *, loses_data: bool = False) -> None:
        """Count an entry."""
        key = kind, loses_data
        self._counts[key] += 1
        examples = self._examples.setdefault(key, [])
        if len(examples) < self.shown:
            examples.append(example)

    def list(self) -> tuple[Finding, ...]:
        """Return the findings, those that lose data first."""
        found = [
            Finding(kind, count, tuple(self._examples[kind, loses]), loses)
            for (kind, loses), count in self._counts.items()
        ]
        return tuple(sorted(found, key=lambda finding: not finding.loses_data))
