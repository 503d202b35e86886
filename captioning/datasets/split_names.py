"""Names of the splits of a data set, found without reading its captions."""

import glob
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from captioning.datasets import coco, flickr8k, table
from captioning.datasets.reading import normalize_split, read_json_fields

_PLACEHOLDER = "{split}"
_ORDER = ("train", "restval", "val", "test")


def list_splits(spec: str) -> tuple[str, ...]:
    """Return the names of the splits of a data set: train, restval, val, test, then any others.

    Args:
        spec: Data set as in :func:`captioning.datasets.read_captions`.

    Returns:
        Normalized names. Empty for a source without splits, which is read as a whole, and for a
        data set that does not exist.

    Raises:
        DataError: A file is malformed.
    """
    kind, _, location = spec.partition(":")
    path = location if Path(location).exists() else location.rpartition("@")[0] or location
    path = str(Path(path).expanduser())
    names: Iterable[str] = ()
    if _PLACEHOLDER in path:
        names = _match_placeholder(path)
    elif kind in _FINDERS and Path(path).exists():
        names = _FINDERS[kind](Path(path))
    found = dict.fromkeys(normalize_split(name) for name in names)
    return tuple(sorted(found, key=lambda name: (*_ORDER, name).index(name)))


def _match_placeholder(path: str) -> list[str]:
    """Return the names for which a path with ``{split}`` exists."""
    first, *rest = map(re.escape, path.split(_PLACEHOLDER))
    pattern = re.compile(first + r"([^/\\]+)" + r"\1".join(rest))
    found = sorted(glob.glob(glob.escape(path).replace(_PLACEHOLDER, "*")))  # noqa: PTH207
    return [match[1] for match in map(pattern.fullmatch, found) if match]


@dataclass(frozen=True)
class _KarpathyImage:
    split: str


@dataclass(frozen=True)
class _KarpathyFile:
    images: tuple[_KarpathyImage, ...]


def _find_karpathy_splits(path: Path) -> Iterable[str]:
    return (image.split for image in read_json_fields(path, _KarpathyFile).images)


_FINDERS: dict[str, Callable[[Path], Iterable[str]]] = {
    "flickr8k": flickr8k.find_splits,
    "coco": coco.find_splits,
    "karpathy": _find_karpathy_splits,
    "jsonl": table.find_jsonl_splits,
    "csv": table.find_csv_splits,
}
