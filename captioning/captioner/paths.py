"""From what the user names to a list of pictures."""

import glob
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from captioning.errors import DataError

_ENDINGS = (
    "jpg jpeg jpe jfif png gif bmp dib tif tiff webp avif jp2 ppm pgm pbm pnm mpo ico tga"
)
EXTENSIONS = frozenset(f".{ending}" for ending in _ENDINGS.split())
"""Endings by which pictures are found in folders; a file that is named is always tried."""


@dataclass(frozen=True)
class PictureList:
    """The pictures to caption.

    Attributes:
        paths: In the order of the arguments; within a folder sorted as people count
            (``photo2`` before ``photo10``).
        skipped: How many files of folders have no picture's ending.
    """

    paths: tuple[str, ...]
    skipped: int


def find_pictures(names: Iterable[str], *, recursive: bool = False) -> PictureList:
    """Resolve files, folders and glob patterns.

    Args:
        names: Each the path of a file or folder, or a pattern such as ``photos/*.jpg``.
        recursive: Go into the folders of folders.

    Raises:
        DataError: A name is nothing that exists, or matches nothing.
    """
    paths: list[str] = []
    skipped = 0
    for name in names:
        if os.path.isdir(name):  # noqa: PTH112  (str keeps bytes that are no UTF-8)
            found, others = _folder(name, recursive)
            paths += found
            skipped += others
        elif os.path.lexists(name):
            paths.append(name)
        elif matches := glob.glob(name, recursive=True):  # noqa: PTH207
            found = [match for match in matches if os.path.isfile(match)]  # noqa: PTH113
            paths += sorted(found, key=_natural)
        else:
            raise DataError(
                f"There is no file, folder or match for {name!r}. Check the path"
                f"{'; put patterns in quotes' if '*' in name else ''}."
            )
    unique = list(dict.fromkeys(paths))
    return PictureList(tuple(unique), skipped)


def _folder(folder: str, recursive: bool) -> tuple[list[str], int]:
    found, skipped = [], 0
    seen: set[tuple[int, int]] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        stat = os.stat(root)  # noqa: PTH116
        if (stat.st_dev, stat.st_ino) in seen:  # a link back to a folder above
            folders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        folders.sort(key=_natural)
        if not recursive:
            folders.clear()
        for file in sorted(files, key=_natural):
            if Path(file).suffix.lower() in EXTENSIONS and not file.startswith("._"):
                found.append(os.path.join(root, file))  # noqa: PTH118
            else:
                skipped += 1
    return found, skipped


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Return a key under which ``photo2`` comes before ``photo10``."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
