"""References to images. This module imports neither Pillow nor NumPy."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field


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


@dataclass(frozen=True, slots=True)
class FileRange:
    """Bytes of a file, such as an image inside a tar archive. A call reads them."""

    path: str
    offset: int
    size: int

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
