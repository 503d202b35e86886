"""Choice of the images that are held out for validation."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from captioning.messages import check_ranges


@dataclass(frozen=True)
class HoldOutConfig:
    """Images of the training split that are held out where a data set has no validation split.

    The choice depends on the file names of the images only: not on their order, their folder, or
    the other data sets.
    """

    val_fraction: float = 0.0
    """Share of the images (0 to below 1; 0: none)."""
    split_seed: int = 0
    """Seed of the choice."""

    def __post_init__(self) -> None:
        check_ranges(self, "[0, 1)", "val_fraction")

    def choose(self, names: Iterable[str]) -> set[str]:
        """Return the held-out names: at least one, but not all."""
        distinct = set(names)
        count = min(max(1, round(self.val_fraction * len(distinct))), len(distinct) - 1)
        return set(sorted(distinct, key=self._rank)[:count])

    def _rank(self, name: str) -> tuple[bytes, str]:
        base = name.replace("\\", "/").rpartition("/")[2]
        text = f"{self.split_seed}/{base}".encode(errors="surrogatepass")
        return hashlib.sha256(text).digest(), name
