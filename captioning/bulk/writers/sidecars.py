"""A file for each image: a small text, an ``.xmp`` file, or the photo with its caption in it."""

import os
from collections import Counter
from pathlib import Path

from captioning.bulk.writers.base import CaptionRow, ImageWriter
from captioning.errors import OutputError
from captioning.files import replace_atomic
from captioning.metadata import embed_caption, read_caption, write_xmp_sidecar
from captioning.sources.find import is_image_name

_LARGEST_TEXT = 1 << 20  # bytes; what is larger was not written by us


class SidecarNames:
    """Gives each image the path of its own file; asked in the order of the inputs.

    ``a.jpg`` gives ``a.txt``. Where its folder also has ``a.png``, they give ``a.jpg.txt`` and
    ``a.png.txt``, whichever of them are captioned. Where images of one name come from several
    folders into one, or from archives, the second's is numbered.

    Args:
        folder: Where the files go; None for beside each image.
        ending: ``.txt``, say; nothing for names like those of the images.
    """

    def __init__(self, folder: Path | None, ending: str) -> None:
        self.folder = folder
        self.ending = ending
        self._home: str | None = None
        self._odd: dict[str, str] = {}
        self._owners: dict[int, int] = {}

    def path_for(self, source: str) -> Path:
        """Return where the caption of ``source`` goes."""
        home, name = os.path.split(source)
        if home != self._home:
            self._home, self._odd = home, _odd_names(home, self.ending)
        short = self._odd.get(name, _stem(name) + self.ending) if self.ending else name
        path = (Path(home) if self.folder is None else self.folder) / short
        owner, number = hash(source), 1
        while self._owners.setdefault(_key(path), owner) != owner:
            number += 1
            path = path.with_name(self._numbered(name, number))
        return path

    def _numbered(self, name: str, number: int) -> str:
        if not self.ending:
            return f"{_stem(name)}-{number}{os.path.splitext(name)[1]}"  # noqa: PTH122
        return f"{name}{f'-{number}' if number > 2 else ''}{self.ending}"


def _odd_names(home: str, ending: str) -> dict[str, str]:
    """Return the names of files of a folder's images that would otherwise share one."""
    try:
        names = sorted(name for name in os.listdir(home or ".") if is_image_name(name))  # noqa: PTH208
    except (OSError, ValueError):
        return {}
    sharing = Counter(_stem(name).casefold() for name in names)
    taken = {stem for stem, count in sharing.items() if count == 1}
    odd: dict[str, str] = {}
    for name in names:
        if sharing[_stem(name).casefold()] == 1:
            continue
        own, number = name, 1
        while own.casefold() in taken:
            number += 1
            own = f"{name}-{number}"
        taken.add(own.casefold())
        odd[name] = own + ending
    return odd


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122


def _key(path: Path) -> int:
    """Some file systems take ``A.txt`` and ``a.txt`` for the same."""
    return hash(str(path).casefold())


class _CaptionFileWriter(ImageWriter):
    """Keeps the captions of each image in a file of its own.

    Args:
        folder: Folder of the files; None for the folder of each image.
        ending: Suffix of the file names.

    Raises:
        OutputError: The folder cannot be created.
    """

    def __init__(self, folder: Path | None, ending: str) -> None:
        self.names = SidecarNames(folder, ending)
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(
                    f"{folder} cannot be a folder for the captions: {error}. Give another -o."
                ) from error

    def _path_for(self, image: str) -> Path:
        return self.names.path_for(image)

    def has_caption(self, image: str) -> bool:
        """Return whether the output of an image already holds a caption."""
        return os.path.lexists(self._path_for(image))

    def write(self, row: CaptionRow) -> None:
        """Write the captions of one image; an image that failed gets no file."""
        path = self._path_for(row.image)
        if not row.ok:
            return
        try:
            self._put(row, path)
        except OutputError:
            raise
        except (OSError, ValueError) as error:
            raise OutputError(
                f"{path} cannot be written: {error}. Name a folder of your own with -o."
            ) from error

    def _put(self, row: CaptionRow, path: Path) -> None:
        raise NotImplementedError


class SidecarWriter(_CaptionFileWriter):
    """A text file per image, with one caption per line."""

    def read_captions(self, image: str) -> list[str]:
        """Return the lines of the text file of an image."""
        path = self._path_for(image)
        return _own_lines(path) if os.path.lexists(path) else []

    def _put(self, row: CaptionRow, path: Path) -> None:
        if os.path.lexists(path):
            _own_lines(path)  # refuses a file that is not text
        text = "".join(f"{line}\n" for line in row.captions)
        replace_atomic(path, text.encode("utf-8", "backslashreplace"))


class XmpWriter(_CaptionFileWriter):
    """An ``.xmp`` file per image; its other properties are kept."""

    def has_caption(self, image: str) -> bool:
        """Return whether the sidecar of an image has a description."""
        path = self._path_for(image)
        return path.is_file() and _description(path) is not None

    def read_captions(self, image: str) -> list[str]:
        """Return the lines of the description in the sidecar of an image."""
        path = self._path_for(image)
        return (_description(path) or "").splitlines() if path.exists() else []

    def _put(self, row: CaptionRow, path: Path) -> None:
        write_xmp_sidecar(path, "\n".join(row.captions))


class EmbeddingWriter(_CaptionFileWriter):
    """The caption inside the image, or inside a copy of it in the folder that ``-o`` names."""

    def __init__(self, folder: Path | None) -> None:
        super().__init__(folder, "")
        self.in_place = folder is None

    def _path_for(self, image: str) -> Path:
        return Path(image) if self.in_place else self.names.path_for(image)

    def has_caption(self, image: str) -> bool:
        """Return whether the image has a description, or its copy exists."""
        path = self._path_for(image)
        return path.is_file() and (not self.in_place or _description(path) is not None)

    def read_captions(self, image: str) -> list[str]:
        """Return the lines of the description in the image."""
        return (_description(Path(image)) or "").splitlines()

    def _put(self, row: CaptionRow, path: Path) -> None:
        embed_caption(Path(row.image), path, "\n".join(row.captions))


def _description(path: Path) -> str | None:
    try:
        return read_caption(path)
    except OutputError:
        return None


def _own_lines(path: Path) -> list[str]:
    """Return the lines of a text file that is about to be replaced.

    Raises:
        OutputError: It is no small text: an image of that name, say.
    """
    content = b"\0"
    if path.is_file() and path.stat().st_size <= _LARGEST_TEXT:
        content = path.read_bytes()
    if b"\0" in content:
        raise OutputError(
            f"{path} is no text file, so it is not written over. Name a folder for the captions "
            "with -o."
        )
    return content.decode("utf-8", "backslashreplace").splitlines()
