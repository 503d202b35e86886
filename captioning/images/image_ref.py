"""References to images. This module imports neither Pillow nor NumPy."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
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
