"""Names of caches: all that their rows depend on, and a change of any of it is another cache."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from captioning.images.preprocessing import Preprocessing

_VERSION = 1
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class FeatureKey:
    """All that features depend on.

    Attributes:
        encoder: The encoder's name.
        weights: Hash of its weights.
        preprocessing: How images became pixels.
        grid: Whether every position is kept, or only v.
        flip: Whether each image was looked at mirrored as well.
        precision: Of the encoder's products.
        crops: Further views of each image (:mod:`captioning.images.augmentation`).
    """

    encoder: str
    weights: str
    preprocessing: Mapping[str, Any]
    grid: bool
    flip: bool
    precision: Precision = "float32"
    crops: int = 0

    def digest(self, paths: Sequence[Path]) -> str:
        """Return a name for the features of these files as they lie on disk now."""
        key = [_VERSION, self.encoder, self.weights, dict(self.preprocessing), self.grid, self.flip]
        key += [] if self.precision == "float32" else [self.precision]
        key += [f"{self.crops} crops"] if self.crops else []
        return _digest(key, paths)


def pixels_digest(preprocessing: Preprocessing, paths: Sequence[Path]) -> str:
    """Return a name for the pixels of these files as they lie on disk now."""
    resized = [preprocessing.size, preprocessing.interpolation, preprocessing.fit]
    return _digest(["pixels", _VERSION, *resized], paths)


def _digest(key: Sequence[Any], paths: Sequence[Path]) -> str:
    files = [[str(path), *_fingerprint(path)] for path in paths]
    return hashlib.sha256(json.dumps([key, files]).encode()).hexdigest()[:20]


def _fingerprint(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return (-1, -1)  # the reading of the image will say what is wrong
    return (stat.st_size, stat.st_mtime_ns)
