"""What all readers of captioned data share: data set names, checks and problem reports."""

import json
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from captioning.datasets.split import CaptionedImage, CaptionSplit, Problems
from captioning.errors import CaptioningError, DataError
from captioning.files import read_text
from captioning.json_data import convert_json

MISSING_IMAGES = "images missing on disk"
UNCAPTIONED_IMAGES = "images without captions"
REPEATED_IMAGES = "repeated images"
EMPTY_CAPTIONS = "empty captions"
UNKNOWN_CAPTIONS = "captions of unknown images"
REPEATED_CAPTIONS = "repeated captions"

_ALIASES = {"dev": "val", "valid": "val", "validation": "val", "training": "train"}

T = TypeVar("T")


@dataclass(frozen=True)
class DatasetSpec:
    """A data set and a split, parsed from ``FORMAT:PATH[@IMAGES]``.

    Attributes:
        text: The string as the user wrote it, for messages.
        path: File or folder with the captions.
        image_folder: Folder of the images, if the string names one.
        split: Normalized name of the split.
        require_images: Whether images whose files do not exist are left out.
    """

    text: str
    path: Path
    image_folder: Path | None
    split: str
    require_images: bool = True

    @classmethod
    def parse(
        cls, text: str, location: str, split: str, require_images: bool = True
    ) -> "DatasetSpec":
        """Parse ``PATH[@IMAGES]``, and replace ``{split}`` in it by the name of the split.

        An existing path that contains ``@`` is not divided.

        Args:
            text: The whole string with its format, for messages.
            location: ``PATH`` or ``PATH@IMAGES``.
            split: Normalized name of the split.
            require_images: See the attribute.

        Raises:
            DataError: The folder of the images does not exist.
        """
        location = location.replace("{split}", split)
        path, at, images = location.rpartition("@")
        if not at or Path(location).exists():
            return cls(text, Path(location).expanduser(), None, split, require_images)
        folder = Path(images).expanduser()
        if not folder.is_dir():
            raise DataError(
                f"'{images}' is not a folder, but {text!r} names it as the folder of the images. "
                "Check the path."
            )
        return cls(text, Path(path).expanduser(), folder, split, require_images)

    def find_images(self, *candidates: Path) -> Path:
        """Return the folder of images that the user named, or the first existing candidate.

        Raises:
            DataError: The user named no folder, and no candidate exists.
        """
        if self.image_folder is not None:
            return self.image_folder
        for folder in candidates:
            if folder.is_dir() or not self.require_images:
                return folder
        raise DataError(
            f"cannot find the images of {self.text!r}. Searched: "
            f"{', '.join(map(str, candidates))}. Name their folder after an @, as in "
            f"{self.text}@FOLDER."
        )


class SplitBuilder:
    """Collects the images of one split and reports those that cannot be used.

    To find out whether an image exists, the builder lists its folder once. Checking each file
    separately takes minutes for 100,000 images on a network disk.

    Args:
        spec: The data set and the split.
    """

    def __init__(self, spec: DatasetSpec) -> None:
        self.spec = spec
        self._images: dict[int, CaptionedImage] = {}
        self._problems: defaultdict[str, list[str]] = defaultdict(list)
        self._listings: dict[Path, frozenset[str]] = {}

    def report(self, kind: str, name: str) -> None:
        """Record a problem of the given kind."""
        self._problems[kind].append(name)

    def exists(self, path: Path) -> bool:
        """Return whether the listing of the folder contains the file ``path``."""
        folder = path.parent
        if folder not in self._listings:
            self._listings[folder] = _list_files(folder)
        return path.name in self._listings[folder]

    def add(self, path: Path, captions: Iterable[str], image_id: int) -> None:
        """Add an image, or report why it cannot be used."""
        if image_id in self._images:
            self.report(REPEATED_IMAGES, path.name)
            return
        if self.spec.require_images and not self.exists(path):
            path = Path(str(path).replace("\\", "/"))  # a file that was written on Windows
            if not self.exists(path):
                self.report(MISSING_IMAGES, str(path))
                return
        stripped = [caption.strip() for caption in captions]
        kept = tuple(filter(None, stripped))
        for number, caption in enumerate(stripped):
            if not caption:
                self.report(EMPTY_CAPTIONS, f"{path.name}#{number}")
        if not kept:
            self.report(UNCAPTIONED_IMAGES, path.name)
            return
        self._images[image_id] = CaptionedImage(str(path), kept, image_id)

    def build(self) -> CaptionSplit:
        """Return the split.

        Raises:
            DataError: There are no usable images.
        """
        problems = Problems({kind: tuple(names) for kind, names in self._problems.items()})
        split, text = self.spec.split, self.spec.text
        if not self._images:
            reason = problems.report() or "the data set lists no images"
            raise DataError(
                f"the {split} split of {text!r} has no usable images:\n{reason}\n"
                "Check the name of the split and the folder of the images (FORMAT:PATH@FOLDER)."
            )
        return CaptionSplit(tuple(self._images.values()), problems, text, split)


def normalize_split(split: str) -> str:
    """Return ``val`` for ``dev`` and similar aliases, and any other name unchanged."""
    return _ALIASES.get(split, split)


def describe_split(split: str) -> str:
    """Return a normalized split name in quotes, with its aliases, for error messages."""
    aliases = ", ".join(alias for alias, name in _ALIASES.items() if name == split)
    return f"{split!r}{f' (aliases: {aliases})' if aliases else ''}"


def number_names(names: Iterable[str]) -> dict[str, int]:
    """Return the position of each name in the sorted list of distinct names."""
    return {name: number for number, name in enumerate(sorted(set(names)))}


def load_json(text: str, source: str, *, error: type[CaptioningError] = DataError) -> Any:
    """Parse JSON text; ``source`` names its file and line in errors.

    Raises:
        CaptioningError: The text is not JSON. The class is ``error``.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as reason:
        raise error(
            f"{source}: not valid JSON ({reason}). If the file is incomplete, download it again or "
            "repeat the command that wrote it."
        ) from reason


def read_json_fields(path: Path, kind: type[T]) -> T:
    """Read the fields of the dataclass ``kind`` from a JSON file, and ignore others.

    Raises:
        DataError: The file is not JSON, or a field is missing or has another type.
    """
    content = load_json(read_text(path, error=DataError), str(path))
    return convert_json(content, kind, source=str(path), error=DataError)


def _list_files(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except (OSError, ValueError):  # ValueError: the name contains a null character
        return frozenset()  # the builder then reports each image of the folder as missing
