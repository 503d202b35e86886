"""Directory names of caches. Every input that changes the cached rows changes the name."""

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
    """Everything that features depend on, except the image files.

    Attributes:
        encoder: Name of the encoder.
        weights: Hash of its weights.
        preprocessing: How images become pixels.
        grid: Whether all grid positions are cached, or only v.
        hflip: Whether a flipped view of each image is cached.
        precision: Precision of the encoder's matrix products.
        crops: Number of cached crops of each image (:mod:`captioning.images.augmentation`).
    """

    encoder: str
    weights: str
    preprocessing: Mapping[str, Any]
    grid: bool
    hflip: bool
    precision: Precision = "float32"
    crops: int = 0

    def digest(self, paths: Sequence[Path]) -> str:
        """Return a name for the features of files with their current size and time."""
        key = [_VERSION, self.encoder, self.weights, dict(self.preprocessing)]
        key += [self.grid, self.hflip]
        key += [] if self.precision == "float32" else [self.precision]
        key += [f"{self.crops} crops"] if self.crops else []
        return _digest(key, paths)


def pixels_digest(preprocessing: Preprocessing, paths: Sequence[Path]) -> str:
    """Return a name for the pixels of files with their current size and time."""
    resizing = [preprocessing.size, preprocessing.interpolation, preprocessing.fit]
    return _digest(["pixels", _VERSION, *resizing], paths)


def _digest(key: Sequence[Any], paths: Sequence[Path]) -> str:
    files = [[str(path), *_fingerprint(path)] for path in paths]
    return hashlib.sha256(json.dumps([key, files]).encode()).hexdigest()[:20]


def _fingerprint(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return (-1, -1)  # reported when the image is read
    return (stat.st_size, stat.st_mtime_ns)
