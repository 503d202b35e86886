"""One small file per image, such as ``photo.txt`` or ``photo.xmp``."""

import os
from abc import abstractmethod
from collections import Counter
from pathlib import Path

from captioning.bulk.writers.base import CaptionRow, ImageWriter
from captioning.bulk.writers.xmp import read_xmp_caption, write_xmp_caption
from captioning.errors import OutputError
from captioning.files import replace_atomic
from captioning.messages import explain_error
from captioning.sources.image_names import is_image_name

_MAX_TEXT_BYTES = 1 << 20  # a larger file is not a caption file


class OutputPaths:
    """Assigns a file of its own to each image, without collisions.

    ``a.jpg`` gets ``a.txt``. If the folder also has ``a.png``, they get ``a.jpg.txt`` and
    ``a.png.txt``, whichever of them are captioned. Images of equal name that share an output folder
    are numbered in input order.

    Args:
        folder: Folder of the files; None for the folder of each image.
        suffix: Suffix of the files, such as ``.txt``; empty to keep the image's file name.
    """

    def __init__(self, folder: Path | None, suffix: str) -> None:
        self.folder = folder
        self.suffix = suffix
        self._image_folder: str | None = None
        self._long_names: dict[str, str] = {}
        self._owners: dict[int, int] = {}  # hash of an image by that of its file
        self._numbers: dict[int, int] = {}  # by hash of the image, if it is not 1
        self._last_numbers: dict[int, int] = {}  # by hash of the file without a number

    def path_for(self, image: str) -> Path:
        """Return the file of an image; call it in input order."""
        image_folder, name = os.path.split(image)
        if image_folder != self._image_folder:
            self._image_folder = image_folder
            self._long_names = _find_long_names(image_folder, self.suffix)
        file_name = name
        if self.suffix:
            file_name = self._long_names.get(name, _stem(name) + self.suffix)
        path = (Path(image_folder) if self.folder is None else self.folder) / file_name
        owner, first_key = hash(image), _collision_key(path)
        if owner not in self._numbers and self._owners.setdefault(first_key, owner) != owner:
            self._numbers[owner] = self._find_free_number(path, name, owner)
        number = self._numbers.get(owner, 1)
        return path if number == 1 else path.with_name(self._numbered(name, number))

    def _find_free_number(self, path: Path, name: str, owner: int) -> int:
        """Return the first number under which no other image has a file."""
        first_key = _collision_key(path)
        number = self._last_numbers.get(first_key, 1)  # smaller ones are taken
        while True:
            number += 1
            key = _collision_key(path.with_name(self._numbered(name, number)))
            if self._owners.setdefault(key, owner) == owner:
                self._last_numbers[first_key] = number
                return number

    def _numbered(self, name: str, number: int) -> str:
        if not self.suffix:
            return f"{_stem(name)}-{number}{os.path.splitext(name)[1]}"  # noqa: PTH122
        return f"{name}{f'-{number}' if number > 2 else ''}{self.suffix}"


def _find_long_names(folder: str, suffix: str) -> dict[str, str]:
    """Return the file names of those images in a folder whose stems are equal."""
    try:
        names = sorted(name for name in os.listdir(folder or ".") if is_image_name(name))  # noqa: PTH208
    except (OSError, ValueError):
        return {}
    counts = Counter(_stem(name).casefold() for name in names)
    taken = {stem for stem, count in counts.items() if count == 1}
    long_names: dict[str, str] = {}
    for name in names:
        if counts[_stem(name).casefold()] == 1:
            continue
        candidate, number = name, 1
        while candidate.casefold() in taken:
            number += 1
            candidate = f"{name}-{number}"
        taken.add(candidate.casefold())
        long_names[name] = candidate + suffix
    return long_names


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122


def _collision_key(path: Path) -> int:
    """Return a key that ignores case, as some file systems do."""
    return hash(str(path).casefold())


class CaptionFileWriter(ImageWriter):
    """Base of the writers with one output file per image.

    Args:
        folder: Folder of the files; None for the folder of each image.
        suffix: Suffix of the files.

    Raises:
        OutputError: The folder cannot be created.
    """

    def __init__(self, folder: Path | None, suffix: str) -> None:
        self.paths = OutputPaths(folder, suffix)
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                reason = f"cannot create folder '{folder}': {error.strerror or error}."
                raise OutputError(f"{reason} Give another -o.") from error

    def write(self, row: CaptionRow) -> None:
        """Write the captions of one image; an image that failed gets no file."""
        path = self._path_for(row.image)
        if not row.ok:
            return
        try:
            self._write_file(row, path)
        except OutputError:
            raise
        except (OSError, ValueError) as error:
            advice = "Give another folder: -o FOLDER."
            raise OutputError(f"cannot write '{path}': {explain_error(error)}. {advice}") from error

    def _path_for(self, image: str) -> Path:
        return self.paths.path_for(image)

    @abstractmethod
    def _write_file(self, row: CaptionRow, path: Path) -> None:
        """Write the captions of one image."""


class SidecarWriter(CaptionFileWriter):
    """A text file per image, with one caption per line."""

    def has_caption(self, image: str) -> bool:
        """Return whether the text file of an image exists, even if it is empty."""
        return os.path.lexists(self._path_for(image))

    def read_captions(self, image: str) -> list[str]:
        """Return the lines of the text file of an image."""
        path = self._path_for(image)
        return _read_lines(path) if os.path.lexists(path) else []

    def _write_file(self, row: CaptionRow, path: Path) -> None:
        if os.path.lexists(path):
            _read_lines(path)  # refuses to replace a file that is not text
        text = "".join(f"{line}\n" for line in row.captions)
        replace_atomic(path, text.encode("utf-8", "backslashreplace"))


class XmpWriter(CaptionFileWriter):
    """An ``.xmp`` file per image; its other properties stay."""

    def read_captions(self, image: str) -> list[str]:
        """Return the lines of the description in the .xmp file of an image."""
        path = self._path_for(image)
        return (read_xmp_caption(path) or "").splitlines() if path.is_file() else []

    def _write_file(self, row: CaptionRow, path: Path) -> None:
        write_xmp_caption(path, "\n".join(row.captions))


def _read_lines(path: Path) -> list[str]:
    """Return the lines of a caption file.

    Raises:
        OutputError: It is not a small text file; it may be an image of that name.
    """
    content = b"\0"
    if path.is_file() and path.stat().st_size <= _MAX_TEXT_BYTES:
        content = path.read_bytes()
    if b"\0" in content:
        raise OutputError(
            f"cannot write '{path}': it exists and is not a text file. Write the captions into "
            "another folder: -o FOLDER."
        )
    return content.decode("utf-8", "backslashreplace").splitlines()
