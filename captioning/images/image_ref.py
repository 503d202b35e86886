"""References to images. This module imports neither Pillow nor NumPy."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

_EXTENSIONS = (
    "jpg jpeg jpe jfif png apng gif bmp dib tif tiff webp avif avifs heic heif hif jxl jp2 j2k ppm "
    "pgm pbm pnm mpo ico tga"
)
IMAGE_EXTENSIONS = frozenset(f".{extension}" for extension in _EXTENSIONS.split())
"""File extensions of images in folders and archives. A file named by the user is always read."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Reference to an image that has not been read yet."""

    name: str
    """Path or URL of the image; also its name in results."""
    content: bytes | Callable[[], bytes] | None = None
    """Content of the file, or a function that fetches it and raises OSError with the reason and
    advice. None: ``name`` is a path."""
    error: str = ""
    """Reason why the image cannot be read, if that is known already."""
    stamp: str = ""
    """Stamp of the file if its digest is wanted (:mod:`captioning.images.file_digest`)."""
    on_digest: Callable[[str | None], None] | None = field(default=None, compare=False)
    """Called with the digest, or with None if the file does not have the stamp any more."""


class ContainedImage(ABC):
    """An image inside another file. A call reads its content."""

    __slots__ = ()
    path: str
    """The other file."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Place of the image in the file. Its content changes only if the file changes."""

    @abstractmethod
    def __call__(self) -> bytes:
        """Read the content.

        Raises:
            OSError: It cannot be read.
        """


@dataclass(frozen=True, slots=True)
class FileRange(ContainedImage):
    """An image that is a range of bytes, such as a member of a tar archive."""

    path: str
    offset: int
    size: int

    @property
    def place(self) -> str:
        """The range."""
        return f"{self.offset} {self.size}"

    def __call__(self) -> bytes:
        """Read the bytes.

        Raises:
            OSError: The file cannot be read or is too short.
        """
        with open(self.path, "rb") as file:  # noqa: PTH123  (names of any bytes)
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise OSError(f"'{self.path}' ends inside the image. Copy the archive again.")
        return content


def as_ref(image: ImageRef | str | os.PathLike[str]) -> ImageRef:
    """Return the reference to an image file, or a reference unchanged."""
    return image if isinstance(image, ImageRef) else ImageRef(os.fspath(image))
