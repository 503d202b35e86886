"""Paths of outputs: one file per image, independent of the other images that are captioned."""

import hashlib
import os
from collections import Counter
from functools import lru_cache
from pathlib import Path

from captioning.images.file_kinds import CAMERA_RAW, kind_of_ending
from captioning.sources.image_names import is_image_name

_PARENT = "_parent"
_MAX_NAME_BYTES = 255  # of most file systems
_CACHED_FOLDERS = 500  # a list may name images in any order


class OutputPaths:
    """Derives the file of an image from the path of the image and the files in its folder.

    In an output folder, an image keeps its path relative to the closest folder that contains both
    the image and the output folder: with ``captions`` or ``out/captions`` as output folder,
    ``DCIM/1/a.jpg`` gets ``captions/DCIM/1/a.txt``. If a closer folder has images at the same
    relative path, such as ``out/DCIM/1``, a folder ``_parent`` per level tells the two apart.
    Images inside the output folder get files next to them.

    The file of ``a.jpg`` is the existing one of ``a.jpg.txt`` and ``a.txt``, in this order and in
    upper or lower case, else ``a.txt``. If the folder also has ``a.png``, only ``a.jpg.txt`` is
    possible. The same holds for images in archives and behind URLs, whose folders are not listed,
    and for ``.xmp`` files if the folder has a camera raw image such as ``a.cr2``, to which
    ``a.xmp`` belongs.

    Args:
        folder: Output folder; None for the folder of each image.
        suffix: Suffix of the files, such as ``.txt``; empty to keep the image's file name.
    """

    def __init__(self, folder: Path | None, suffix: str) -> None:
        self.suffix = suffix
        self._output = folder
        self._folder_of = lru_cache(_CACHED_FOLDERS)(self._find_folder)
        self._names_in = lru_cache(_CACHED_FOLDERS)(self._list_names)

    def path_for(self, image: str) -> Path:
        """Return the file of an image, given by its path or URL."""
        image_folder, name = os.path.split(image)
        folder = self._folder_of(image_folder)
        if not self.suffix:
            return folder / _shorten(name)
        return folder / self._names_in(image_folder).file_of(name)

    def _find_folder(self, image_folder: str) -> Path:
        """Return the folder of the files of the images in a folder."""
        if self._output is None:
            return Path(image_folder)
        if "://" in image_folder:
            parts = image_folder.replace("://", "/", 1).split("/")
        else:
            parts = _relative_parts(os.path.realpath(image_folder), os.path.realpath(self._output))
        parts = [_PARENT if part == ".." else _shorten(part) for part in parts if part != "."]
        return self._output.joinpath(*parts)

    def _list_names(self, image_folder: str) -> "_FolderNames":
        # For an archive or a URL, the list of names is empty: neither is a folder.
        names = _list_folder(image_folder)
        return _FolderNames(names, _list_folder(self._folder_of(image_folder)), self.suffix)


class _FolderNames:
    """The names in a folder of images and in the folder of their files, at one moment.

    Upper and lower case are not told apart, because some file systems do not.
    """

    def __init__(self, names: list[str], files: list[str], suffix: str) -> None:
        self._suffix = suffix
        raw = [name for name in names if _is_camera_raw(name)] if suffix == ".xmp" else []
        images = [*filter(is_image_name, names), *raw]
        self._images = Counter(name.casefold() for name in images)
        self._stems = Counter(_fold_stem(name) for name in images)
        self._raw_stems = Counter(map(_fold_stem, raw))
        self._files: dict[str, list[str]] = {}
        for name in sorted(files):
            if name.casefold().endswith(suffix):
                self._files.setdefault(name.casefold(), []).append(name)

    def file_of(self, name: str) -> str:
        """Return the name of the file of an image: an existing one, or a new one."""
        folded = name.casefold()
        has_twin = self._images[folded] > 1
        if self._owns_stem(name):
            bases = [name, os.path.splitext(name)[0]]  # noqa: PTH122
        elif has_twin:
            bases = [name, f"{name}-{_digest(name)}"]
        elif folded in self._stems and folded not in self._images:
            bases = [
                f"{name}-{_digest(name)}"
            ]  # a file with another name may belong to another image
        else:
            bases = [name]
        files = [_shorten(base, self._suffix) for base in bases]
        for file in files:
            found = self._files.get(file.casefold(), [])
            if file in found:
                return file
            if found and not has_twin:
                return found[0]
        return files[-1]

    def _owns_stem(self, name: str) -> bool:
        """Return whether a file with the stem of an image can only belong to this image."""
        stem = _fold_stem(name)
        if stem in self._images or name.casefold() not in self._images:
            return False
        if self._raw_stems[stem]:
            return _is_camera_raw(name) and self._raw_stems[stem] == 1
        return self._stems[stem] == 1


def _relative_parts(folder: str, output: str) -> list[str]:
    """Return the path, within an output folder, of the files for a folder of images.

    Each ``..`` in it becomes a folder ``_parent``.

    Args:
        folder: Real path of the folder of images: it does not depend on how the user named it.
        output: Real path of the output folder.
    """
    path, root = Path(folder), Path(output)
    if path.drive != root.drive:  # Windows
        return [path.drive.strip(":\\/").replace("\\", "_"), *path.parts[1:]]
    if path.is_relative_to(root):
        return list(path.relative_to(root).parts)
    closer: list[Path] = []
    for common in root.parents:
        if path.is_relative_to(common):
            break
        closer.append(common)
    relative = path.relative_to(common)
    taken = any(any(map(is_image_name, _list_folder(each / relative))) for each in closer)
    return [".."] * (len(closer) if taken else 0) + list(relative.parts)


def _list_folder(folder: str | Path) -> list[str]:
    try:
        return os.listdir(folder or ".")  # noqa: PTH208
    except (OSError, ValueError):
        return []


def _shorten(base: str, suffix: str = "") -> str:
    """Return ``base + suffix``; a hash replaces the end of a base that is too long."""
    room = _MAX_NAME_BYTES - len(suffix)
    encoded = os.fsencode(base)
    if len(encoded) > room:
        digest = _digest(base)
        base = f"{encoded[: room - len(digest) - 1].decode(errors='ignore')}-{digest}"
    return base + suffix


def _digest(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:12]


def _fold_stem(name: str) -> str:
    return os.path.splitext(name)[0].casefold()  # noqa: PTH122


def _is_camera_raw(name: str) -> bool:
    return kind_of_ending(name) == CAMERA_RAW
