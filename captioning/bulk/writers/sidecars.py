"""A file for each image: a small text, an ``.xmp`` file, or the photo with its caption in it."""

import os
from collections import Counter
from pathlib import Path
from typing import Literal

from captioning.bulk.writers.base import Writer
from captioning.errors import OutputError
from captioning.files import replace_atomic
from captioning.inference.results import CaptionResult
from captioning.metadata import embed_caption, read_caption, write_xmp_sidecar
from captioning.sources.image_names import is_image_name

Existing = Literal["keep", "replace", "append"]
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


class FileForEach(Writer):
    """A writer that keeps each image's captions in a file of its own.

    One that cannot be written fails its image alone.

    Args:
        output: The folder; None for that of each image.
        ending: The files' names end so.
        existing: What becomes of a file that is there: ``keep`` leaves that image out.

    Raises:
        OutputError: The folder cannot be made.
    """

    for_each = True

    def __init__(self, output: Path | None, ending: str, existing: Existing) -> None:
        self.existing = existing
        self.names = SidecarNames(output, ending)
        self._waiting: dict[str, Path] = {}
        if output is not None:
            try:
                output.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(
                    f"{output} cannot be a folder for the captions: {error}. Give another -o."
                ) from error

    def wants(self, source: str) -> bool:
        """Whether an image is to be captioned; asked of each, in order, before it is written."""
        path = self._path_for(source)
        if self.existing == "keep" and self._has_caption(source, path):
            return False
        self._waiting[source] = path
        return True

    def _path_for(self, source: str) -> Path:
        return self.names.path_for(source)

    def _has_caption(self, source: str, path: Path) -> bool:
        return os.path.lexists(path)

    def _write(self, result: CaptionResult) -> None:
        path = self._waiting.pop(result.source, None) or self._path_for(result.source)
        if not result.ok:
            return
        try:
            self._put(result, path)
        except OutputError:
            raise
        except (OSError, ValueError) as error:
            raise OutputError(
                f"{path} cannot be written: {error}. Name a folder of your own with -o."
            ) from error

    def _put(self, result: CaptionResult, path: Path) -> None:
        raise NotImplementedError


class SidecarWriter(FileForEach):
    """A small text file for each image, with a caption in each line."""

    def _put(self, result: CaptionResult, path: Path) -> None:
        lines = [caption.text for caption in result.captions]
        if os.path.lexists(path):
            before = _own_lines(path)
            if self.existing == "append":
                lines = [*before, *(line for line in lines if line not in before)]
        text = "".join(f"{line}\n" for line in lines)
        replace_atomic(path, text.encode("utf-8", "backslashreplace"))


class XmpWriter(FileForEach):
    """An ``.xmp`` file for each image, as photo programs read them; other properties are kept."""

    def _has_caption(self, source: str, path: Path) -> bool:
        return path.is_file() and _description(path) is not None

    def _put(self, result: CaptionResult, path: Path) -> None:
        before = _description(path) if self.existing == "append" and path.exists() else None
        write_xmp_sidecar(path, _together(before, result))


class EmbeddingWriter(FileForEach):
    """The caption inside the photo, or inside a copy of it in the folder that ``-o`` names."""

    def __init__(self, output: Path | None, existing: Existing) -> None:
        super().__init__(output, "", existing)
        self.in_place = output is None

    def _path_for(self, source: str) -> Path:
        return Path(source) if self.in_place else self.names.path_for(source)

    def _has_caption(self, source: str, path: Path) -> bool:
        return path.is_file() and (not self.in_place or _description(path) is not None)

    def _put(self, result: CaptionResult, path: Path) -> None:
        source = Path(result.source)
        before = _description(source) if self.existing == "append" else None
        embed_caption(source, path, _together(before, result))


def _description(path: Path) -> str | None:
    try:
        return read_caption(path)
    except OutputError:
        return None


def _together(before: str | None, result: CaptionResult) -> str:
    lines = before.splitlines() if before else []
    lines += [each.text for each in result.captions if each.text not in lines]
    return "\n".join(lines)


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
