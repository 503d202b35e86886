"""Images and captions of a data set as its form gives them, and the selection of a split."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import unquote

from captioning.datasets.hold_out import HoldOutConfig
from captioning.datasets.spec import (
    DatasetSpec,
    describe_split,
    normalize_split,
    split_parts,
)
from captioning.datasets.split import CaptionedImage, CaptionSplit, Problems
from captioning.errors import DataError
from captioning.messages import format_count, suggest

MISSING_IMAGES = "images missing on disk"
UNCAPTIONED_IMAGES = "images without captions"
REPEATED_IMAGES = "repeated images"
EMPTY_CAPTIONS = "empty captions"
UNKNOWN_CAPTIONS = "captions of unknown images"
REPEATED_CAPTIONS = "repeated captions"
_ADVICE = "Check the name of the split and the folder of the images (FORMAT:PATH@FOLDER)."
_URL_ADVICE = (
    "The images are named by URLs. Download them, for example with img2dataset, and read its "
    "archives: tar:'FOLDER/*.tar'. Or name the folder of the files, which are named as the URLs "
    "end: {text}@FOLDER."
)


Content = bytes | Callable[[], bytes]
"""Content of an image that is not a file of its own, or a function that reads it."""


@dataclass(slots=True)
class Entry:
    """An image of a data set, with its captions as they are written there.

    Attributes:
        name: Name of the image: a path relative to the folder of images, or a URL.
        captions: Its captions.
        split: Normalized name of its split; None if the data set has no splits.
        image_id: Its id in the data set. None: the position of its name in sorted order.
        content: Content of an image that is not a file of its own, or a function that reads it.
        subfolder: Folder inside the folder of images in which it may also be.
    """

    name: str
    captions: list[str]
    split: str | None = None
    image_id: int | None = None
    content: Content | None = None
    subfolder: str = ""


@dataclass
class CaptionSource:
    """Everything that one file or folder of captions holds.

    Attributes:
        entries: All images of all splits, in the order of the data set.
        folder: Folder to which the names of the images are relative.
        problems: Unusable items by kind.
        missing_split: What to do if a split is missing.
    """

    entries: list[Entry]
    folder: Path = Path()
    problems: dict[str, list[str]] = field(default_factory=dict)
    missing_split: str = "Name one of them"

    def __post_init__(self) -> None:
        unnumbered = [entry for entry in self.entries if entry.image_id is None]
        ids = number_names(entry.name for entry in unnumbered)
        for entry in unnumbered:
            entry.image_id = ids[entry.name]

    @property
    def splits(self) -> Counter[str]:
        """Number of images of each split. Empty if the data set has no splits."""
        return Counter(entry.split for entry in self.entries if entry.split is not None)


def select_split(
    source: CaptionSource, spec: DatasetSpec, hold_out: HoldOutConfig | None = None
) -> CaptionSplit:
    """Return the usable images of a split.

    Args:
        source: The data set. If it has no splits, all images are returned for every split.
        spec: Names the split.
        hold_out: Images to hold out if the data set has no split ``val``.

    Raises:
        DataError: The split does not exist, or has no usable image.
    """
    splits = source.splits
    names = [entry.split or "" for entry in source.entries]
    if hold_out is not None and (not hold_out.val_fraction or "val" in splits):
        hold_out = None
    if hold_out is not None:
        names = _divide(source, hold_out)
        splits = Counter(names)
    parts = split_parts(spec.split, splits.__contains__)
    wanted = dict.fromkeys(map(normalize_split, parts))
    if splits and (unknown := [name for name in wanted if name not in splits]):
        raise DataError(_explain_missing_split(source, spec, unknown, splits))
    builder = SplitBuilder(spec, source)
    for name, entry in zip(names, source.entries, strict=True):
        if not splits or name in wanted:
            builder.add(entry)
    return builder.build("+".join(wanted), hold_out)


def _explain_missing_split(
    source: CaptionSource, spec: DatasetSpec, unknown: Sequence[str], splits: Mapping[str, int]
) -> str:
    known = ", ".join(f"{name} ({format_count(n, 'image')})" for name, n in splits.items())
    held_out = (
        ", or train with images held out: captioning train --val-fraction 0.1"
        if unknown == ["val"] and "train" in splits
        else ""
    )
    return (
        f"'{spec.path}' has no split {', '.join(map(describe_split, unknown))}. Its splits: "
        f"{known}.{suggest(unknown[0], splits)} {source.missing_split}{held_out}."
    )


def _divide(source: CaptionSource, hold_out: HoldOutConfig) -> list[str]:
    """Return the split of each entry, with some of the training images in ``val``."""
    splits = [entry.split or "train" for entry in source.entries]
    pairs = list(zip(splits, source.entries, strict=True))
    held = hold_out.choose(entry.name for split, entry in pairs if split == "train")
    return ["val" if split == "train" and entry.name in held else split for split, entry in pairs]


class SplitBuilder:
    """Collects the images of one split and reports those that cannot be used.

    To find out whether an image exists, the builder lists its folder once. Checking each file
    separately takes minutes for 100,000 images on a network disk.

    Args:
        spec: The data set and the split.
        source: What the data set holds.
    """

    def __init__(self, spec: DatasetSpec, source: CaptionSource) -> None:
        self.spec = spec
        self.folder = str(source.folder)
        self._images: dict[int, CaptionedImage] = {}
        self._problems = defaultdict(list, {k: list(v) for k, v in source.problems.items()})
        self._listings: dict[str, frozenset[str]] = {}

    def add(self, entry: Entry) -> None:
        """Add an image, or report why it cannot be used."""
        image_id = cast(int, entry.image_id)
        if image_id in self._images:
            self._problems[REPEATED_IMAGES].append(entry.name)
            return
        name = entry.name if entry.content is not None else self._find(entry)
        if name is None:
            return
        stripped = [caption.strip() for caption in entry.captions]
        kept = tuple(filter(None, stripped))
        base = name.rpartition("/")[2]
        for number, caption in enumerate(stripped):
            if not caption:
                self._problems[EMPTY_CAPTIONS].append(f"{base}#{number}")
        if not kept:
            self._problems[UNCAPTIONED_IMAGES].append(base)
            return
        self._images[image_id] = CaptionedImage(name, kept, image_id, entry.content)

    def build(self, split: str, hold_out: HoldOutConfig | None) -> CaptionSplit:
        """Return the split.

        Raises:
            DataError: There are no usable images.
        """
        problems = Problems({kind: tuple(names) for kind, names in self._problems.items() if names})
        text = self.spec.text
        if not self._images:
            reason = problems.report() or "the data set lists no images"
            advice = _URL_ADVICE if "://" in reason else _ADVICE
            raise DataError(
                f"the {split} split of {text!r} has no usable images:\n{reason}\n"
                f"{advice.format(text=text)}"
            )
        return CaptionSplit(tuple(self._images.values()), problems, text, split, hold_out)

    def _find(self, entry: Entry) -> str | None:
        """Return the path of an image; None, after a report, if there is no such file."""
        name = file_name(entry.name)
        found = name if self._exists(name) else self._find_elsewhere(name, entry.subfolder)
        if found is None and self.spec.require_images:
            path = entry.name if "://" in entry.name else os.path.join(self.folder, name)  # noqa: PTH118
            self._problems[MISSING_IMAGES].append(path)
            return None
        return os.path.join(self.folder, found or name)  # noqa: PTH118  (much faster)

    def _find_elsewhere(self, name: str, subfolder: str) -> str | None:
        nested = f"{subfolder}/{name}" if subfolder else name
        candidates = (nested, nested.replace("\\", "/"))  # a name that was written on Windows
        return next(filter(self._exists, candidates), None)

    def _exists(self, name: str) -> bool:
        """Return whether the listing of the folder of a file contains it."""
        folder, _, base = name.rpartition("/")
        if (listing := self._listings.get(folder)) is None:
            listing = list_files(os.path.join(self.folder, folder))  # noqa: PTH118
            self._listings[folder] = listing
        return base in listing


def file_name(name: str) -> str:
    """Return the name of an image on disk; of a URL, its last part."""
    if "://" not in name:
        return name
    return unquote(re.split("[?#]", name, maxsplit=1)[0].rpartition("/")[2])


def number_names(names: Iterable[str]) -> dict[str, int]:
    """Return the position of each name in the sorted list of distinct names."""
    return {name: number for number, name in enumerate(sorted(set(names)))}


def list_files(folder: str | Path) -> frozenset[str]:
    """Return the names of the files in a folder; none if it cannot be read."""
    try:
        with os.scandir(folder or ".") as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except (OSError, ValueError):  # ValueError: the name contains a null character
        return frozenset()  # each image of the folder is then reported as missing
