"""References to images. This module imports neither Pillow nor NumPy."""

from collections.abc import Callable
from dataclasses import dataclass


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
