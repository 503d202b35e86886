"""Division of the images of a split into archives."""

import hashlib
import json
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from captioning.datasets.split import CaptionedImage
from captioning.images.file_digest import stat_file
from captioning.images.image_ref import ContainedImage, FileRange

_VERSION = 1  # of the layout
_BLOCK, _RECORD = tarfile.BLOCKSIZE, tarfile.RECORDSIZE


@dataclass(frozen=True)
class ArchiveEntry:
    """An image, the size of its content, and the JSON that is stored next to it."""

    image: CaptionedImage
    size: int
    text: bytes


def make_entries(images: Sequence[CaptionedImage], split: str) -> list[ArchiveEntry]:
    """Return what is stored of each image.

    Args:
        images: The images.
        split: Name of their split.
    """
    # A data set can name some images by relative and others by absolute paths.
    names = [os.path.abspath(image.name) for image in images]  # noqa: PTH100
    folder = os.path.commonpath({os.path.dirname(name) for name in names})  # noqa: PTH120
    entries = []
    for image, name in zip(images, names, strict=True):
        content = {
            "image": PurePath(os.path.relpath(name, folder)).as_posix(),
            "image_id": image.image_id,
            "captions": image.captions,
            "split": split,
        }
        text = json.dumps(content, ensure_ascii=False)
        # A lone surrogate, such as of a file name that is not UTF-8, becomes its escape in JSON.
        encoded = text.encode(errors="backslashreplace")
        entries.append(ArchiveEntry(image, _content_size(image), encoded))
    return entries


@dataclass(frozen=True)
class PlannedArchive:
    """An archive of the images from ``start`` to ``stop``, and its size at most."""

    start: int
    stop: int
    size: int


def plan_archives(entries: Sequence[ArchiveEntry], max_bytes: int) -> list[PlannedArchive]:
    """Divide images into archives that keep the limit."""
    plan, start, size = [], 0, _RECORD
    for number, entry in enumerate(entries):
        added = _member_size(entry.size) + _member_size(len(entry.text))
        if number > start and size + added > max_bytes:
            plan.append(PlannedArchive(start, number, size))
            start, size = number, _RECORD
        size += added
    return [*plan, PlannedArchive(start, len(entries), size)]


def _member_size(content: int) -> int:
    return _BLOCK + -(-content // _BLOCK) * _BLOCK


def _content_size(image: CaptionedImage) -> int:
    """Return the size of an image; 0 if it cannot be read, which is reported later."""
    match image.content:
        case None:
            return max(0, stat_file(image.name)[0])
        case bytes():
            return len(image.content)
        case FileRange():
            return image.content.size
    try:
        return len(image.content())
    except OSError:
        return 0


def make_key(entries: Sequence[ArchiveEntry], max_bytes: int) -> str:
    """Return a digest of everything that determines the bytes of the archives."""
    digest = hashlib.sha256(json.dumps([_VERSION, max_bytes]).encode())
    for entry in entries:
        content = entry.image.content
        place = content.place if isinstance(content, ContainedImage) else ""
        file = content.path if isinstance(content, ContainedImage) else entry.image.name
        size_and_time = stat_file(file)[1].split()[:2]
        digest.update(entry.text + f"{entry.size} {place} {size_and_time}".encode())
    return digest.hexdigest()
