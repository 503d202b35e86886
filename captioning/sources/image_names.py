"""File names of images: which ones count as images, and in which order they are listed."""

import os
import re
from dataclasses import dataclass

from captioning.images.worker_pool import ImageRef

_EXTENSIONS = (
    "jpg jpeg jpe jfif png apng gif bmp dib tif tiff webp avif avifs heic heif jxl jp2 j2k ppm "
    "pgm pbm pnm mpo ico tga"
)
IMAGE_EXTENSIONS = frozenset(f".{extension}" for extension in _EXTENSIONS.split())
"""File extensions of images in folders and archives. A file named by the user is always read."""


@dataclass
class SkippedCounts:
    """Running counts of what a search for images skips."""

    files: int = 0
    """Hidden files and folders, and files without an image extension."""
    folders: int = 0
    """Subfolders that only a recursive search enters."""


def is_image_name(name: str) -> bool:
    """Return whether a base name has an image extension and is not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS  # noqa: PTH122


def natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Return a sort key that puts ``photo2`` before ``photo10``; different names differ in it."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts], name


def report_unmatched(pattern: str) -> ImageRef:
    """Return the item that reports a glob pattern without a match."""
    return ImageRef(pattern, error=f"no file matches '{pattern}'. Check the pattern.")
