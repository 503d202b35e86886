"""Names of data sets and of splits."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from captioning.errors import DataError
from captioning.file_patterns import find_matches

PLACEHOLDER = "{split}"
TRAIN_SPLIT = "train+restval"
"""The usual training split. Only Karpathy's COCO split has ``restval``."""
_NAMES = {
    "train": ("training",),
    "val": ("validation", "dev", "valid"),
    "test": ("testing",),
}
_ALIASES = {alias: name for name, aliases in _NAMES.items() for alias in aliases}
_OPTIONAL = "restval"


def normalize_split(split: str) -> str:
    """Return ``val`` for ``dev`` and similar aliases, and any other name unchanged."""
    return _ALIASES.get(split, split)


def describe_split(split: str) -> str:
    """Return a normalized split name in quotes, with its aliases, for error messages."""
    aliases = ", ".join(_NAMES.get(split, ()))
    return f"{split!r}{f' (aliases: {aliases})' if aliases else ''}"


def split_parts(split: str, available: Callable[[str], bool]) -> list[str]:
    """Return the names that ``+`` joins. ``restval`` is left out if it is not available."""
    parts = split.split("+")
    kept = [part for part in parts if part != _OPTIONAL or available(part)]
    return kept or parts


@dataclass(frozen=True)
class DatasetSpec:
    """A data set, parsed from ``FORMAT:PATH[@IMAGES]`` for one split.

    Attributes:
        text: The string as the user wrote it, for messages.
        path: File or folder with the captions, or a pattern of such files.
        image_folder: Folder of the images, if the string names one.
        split: The split as the user wrote it.
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

        If nothing has the name as the user wrote it, its aliases are tried: ``val`` also finds a
        folder ``validation``. An existing path that contains ``@`` is not divided.

        Args:
            text: The whole string with its format, for messages.
            location: ``PATH`` or ``PATH@IMAGES``.
            split: Name of the split.
            require_images: See the attribute.

        Raises:
            DataError: The folder of the images does not exist.
        """
        path, at, images = location.rpartition("@")
        if not at or find_matches(_fill(location, split)):
            return cls(text, _fill(location, split), None, split, require_images)
        folder = _fill(images, split)
        if not folder.is_dir():
            raise DataError(
                f"'{folder}' is not a folder, but {text!r} names it as the folder of the images. "
                "Check the path."
            )
        return cls(text, _fill(path, split), folder, split, require_images)

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


def _fill(template: str, split: str) -> Path:
    """Return a path with the name of the split, or with an alias if only that exists."""
    if PLACEHOLDER not in template:
        return Path(template).expanduser()
    split = "+".join(split_parts(split, lambda part: False))  # one file cannot hold both
    own = normalize_split(split)
    names = (split, own, *_NAMES.get(own, ()))
    return next(
        (path for name in names if find_matches(path := _replace(template, name))),
        _replace(template, split),
    )


def _replace(template: str, split: str) -> Path:
    return Path(template.replace(PLACEHOLDER, split)).expanduser()
