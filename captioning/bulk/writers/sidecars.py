"""One small file per image, such as ``photo.txt`` or ``photo.xmp``."""

import codecs
import os
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from captioning.bulk.writers.base import CaptionRow, ImageWriter
from captioning.bulk.writers.original_files import OriginalFile, require_regular_file
from captioning.bulk.writers.output_paths import OutputPaths
from captioning.errors import OutputError
from captioning.files import find_write_obstacle, replace_atomic, resolve_link
from captioning.messages import explain_error

_OTHER_FOLDER = "Use another folder: -o FOLDER."
_BOMS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_BLANKS = b"\0 \t\r\n\v\f"  # a power failure may leave zeros


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
        self._obstacles: dict[Path, str] = {}  # by folder
        if folder is None:
            return
        if reason := find_write_obstacle(folder):
            raise OutputError(f"cannot write into '{folder}': {reason}. Use another -o.")
        folder.mkdir(parents=True, exist_ok=True)

    def find_obstacle(self, image: str) -> str:
        """Return why no file can be written into the output folder of an image; often empty."""
        path = self._path_for(image)
        folder = resolve_link(path).parent
        if folder not in self._obstacles:
            self._obstacles[folder] = find_write_obstacle(folder)
        reason = self._obstacles[folder]
        return f"cannot write '{path}': {reason}. {_OTHER_FOLDER}" if reason else ""

    def write(self, row: CaptionRow) -> None:
        """Write the captions of one image; an image that failed gets no file."""
        if row.ok:
            path = self._path_for(row.image)
            with _explain_errors(path):
                self._write_file(row, path)

    def _path_for(self, image: str) -> Path:
        return self.paths.path_for(image)

    @abstractmethod
    def _write_file(self, row: CaptionRow, path: Path) -> None:
        """Write the captions of one image."""


class SidecarWriter(CaptionFileWriter):
    """Base of the writers with small files that other programs write too.

    An empty or blank file counts as none. Anything else that is not a file of the format
    makes its image fail: a replacement would destroy it.
    """

    max_bytes: ClassVar[int]
    """Size of the largest file that is read."""

    def find_obstacle(self, image: str) -> str:
        """Return why the file of an image cannot be written; empty if nothing is known."""
        reason, path = super().find_obstacle(image), self._path_for(image)
        if reason or not os.path.lexists(path):
            return reason
        try:
            self._read_file(path)
            with _explain_errors(path):
                OriginalFile(path)
        except OutputError as error:
            return str(error)
        return ""

    def read_captions(self, image: str) -> list[str]:
        """Return the captions in the file of an image."""
        path = self._path_for(image)
        return self._read_file(path) if os.path.lexists(path) else []

    def _read_file(self, path: Path) -> list[str]:
        with _explain_errors(path):
            return self._parse(self._read_content(path))

    def _read_content(self, path: Path) -> bytes:
        """Return the content of an existing file; empty if it is blank."""
        size = require_regular_file(path).st_size
        if size > self.max_bytes:
            limit = f"{self.max_bytes:,}"
            raise OutputError(f"it has {size:,} bytes; the limit is {limit}. {_OTHER_FOLDER}")
        content = path.read_bytes()
        return b"" if content.translate(None, _BLANKS) in (b"", *_BOMS) else content

    def _write_file(self, row: CaptionRow, path: Path) -> None:
        if not os.path.lexists(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_atomic(path, self._format(b"", row.captions))
            return
        original = OriginalFile(path)
        original.replace(self._format(self._read_content(path), row.captions))

    @abstractmethod
    def _parse(self, content: bytes) -> list[str]:
        """Return the captions in a file.

        Raises:
            OutputError: It is not a file of this format.
        """

    @abstractmethod
    def _format(self, content: bytes, captions: Sequence[str]) -> bytes:
        """Return the new content of a file.

        Args:
            content: Its present content; empty if it is blank or does not exist.
            captions: Its new captions.

        Raises:
            OutputError: It is not a file of this format.
        """


class TextFileWriter(SidecarWriter):
    """A text file per image, with one caption per line."""

    max_bytes = 1 << 20

    def _parse(self, content: bytes) -> list[str]:
        try:
            if content.startswith(_BOMS[1:]):
                text = content.decode("utf-16")
            elif b"\0" not in content:
                text = content.decode("utf-8-sig", "surrogateescape")  # any other text stays
            else:
                raise OutputError(f"it exists and is not a text file. {_OTHER_FOLDER}")
        except UnicodeDecodeError as error:
            raise OutputError(f"it is not UTF-16 text ({error}). {_OTHER_FOLDER}") from error
        text = text.strip()
        return re.split(r"\r\n|\r|\n", text) if text else []

    def _format(self, content: bytes, captions: Sequence[str]) -> bytes:
        self._parse(content)  # refuses a file that is not text
        text = "".join(f"{line}\n" for line in captions)
        try:
            return text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:  # half of a pair of surrogates
            return text.encode("utf-8", "backslashreplace")


class XmpWriter(SidecarWriter):
    """An ``.xmp`` file per image; its other properties stay."""

    max_bytes = 1 << 24

    def _parse(self, content: bytes) -> list[str]:
        from captioning.bulk.writers.xmp import read_description  # XML is slow to import

        caption = read_description(content) if content else None
        return caption.split("\n") if caption else []

    def _format(self, content: bytes, captions: Sequence[str]) -> bytes:
        from captioning.bulk.writers.xmp import replace_description

        return replace_description(content, "\n".join(captions))


@contextmanager
def _explain_errors(path: Path) -> Iterator[None]:
    """Turn the errors of a block into an OutputError that names the file."""
    try:
        yield
    except OutputError as error:
        raise OutputError(f"cannot write '{path}': {error}") from error
    except (OSError, ValueError) as error:
        reason = f"{explain_error(error)}. {_OTHER_FOLDER}"
        raise OutputError(f"cannot write '{path}': {reason}") from error
