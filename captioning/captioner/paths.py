"""From what the user names to a list of pictures."""

import glob
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_ENDINGS = (
    "jpg jpeg jpe jfif png apng gif bmp dib tif tiff webp avif avifs heic heif jp2 j2k ppm pgm pbm "
    "pnm mpo ico tga"
)
EXTENSIONS = frozenset(f".{ending}" for ending in _ENDINGS.split())
"""Endings by which pictures are found in folders; a file that is named is always tried."""


@dataclass(frozen=True)
class PictureList:
    """The pictures to caption.

    Attributes:
        paths: In the order of the arguments, each once; within a folder sorted as people count
            (``photo2`` before ``photo10``).
        skipped: How many files of folders are hidden or have no picture's ending.
    """

    paths: tuple[str, ...]
    skipped: int


def find_pictures(
    names: Iterable[str], *, recursive: bool = False, patterns: bool = True
) -> PictureList:
    """Resolve files, folders and glob patterns.

    What does not exist stays in the list, and so does what only looks like a picture (a folder
    named ``x.jpg``, a folder that may not be opened): each gives a result that says so. Links to
    files are followed, links to folders inside a folder are not.

    Args:
        names: Each the path of a file or folder, or a pattern such as ``photos/*.jpg``.
        recursive: Go into the folders of folders.
        patterns: Whether a name that does not exist may be a pattern.
    """
    paths: list[str] = []
    skipped = 0
    for name in names:
        if os.path.isdir(name):  # noqa: PTH112  (str keeps bytes that are no UTF-8)
            found, others = _folder(name, recursive)
            paths += found
            skipped += others
        elif patterns and not os.path.lexists(name) and (matches := _matches(name)):
            paths += matches
        else:
            paths.append(name)
    return PictureList(tuple(dict.fromkeys(paths)), skipped)


def _matches(pattern: str) -> list[str]:
    found = glob.glob(pattern, recursive=True)  # noqa: PTH207
    return sorted((path for path in found if not os.path.isdir(path)), key=_natural)  # noqa: PTH112


def _folder(folder: str, recursive: bool) -> tuple[list[str], int]:
    found: list[str] = []
    skipped = 0

    def unreadable(error: OSError) -> None:
        found.append(str(error.filename))

    for root, folders, files in os.walk(folder, onerror=unreadable):
        named = sorted(files + [name for name in folders if _is_picture(name)], key=_natural)
        found += [os.path.join(root, name) for name in named if _is_picture(name)]  # noqa: PTH118
        skipped += sum(not _is_picture(name) for name in files)
        deeper = [name for name in folders if not name.startswith(".")]
        folders[:] = sorted(deeper, key=_natural) if recursive else []
    return found, skipped


def _is_picture(name: str) -> bool:
    return Path(name).suffix.lower() in EXTENSIONS and not name.startswith(".")


def _natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Return a key under which ``photo2`` comes before ``photo10``, and no two names are equal."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts], name
