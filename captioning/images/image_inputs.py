"""What a caller may give as an image."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from captioning.errors import ImageError
from captioning.images.arrays import ArrayLike, image_from_array

ImageSource = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | BinaryIO
    | io.IOBase
    | Image.Image
    | ArrayLike
    | Mapping[str, Any]
)
"""A path, the content of a file, an open binary file, a Pillow image, an array or a tensor, or a
row ``{"bytes": ..., "path": ...}`` of Hugging Face ``datasets``."""

_MAX_PATH = 4096  # characters
_KINDS = (
    "Give a path, a URL, the bytes of a file, an open binary file, a Pillow image, an array or a "
    "tensor. captioner(list) captions several images."
)


def resolve_input(source: object) -> Any:
    """Return an image as a path, as bytes, as an open file or as a Pillow image.

    Raises:
        ImageError: It is of another type, or its values need a conversion, which is named.
    """
    if isinstance(source, Mapping) and ("bytes" in source or "path" in source):
        content = source.get("bytes")
        source = source.get("path") if content is None else content
    match source:
        case str() if 0 < len(source) <= _MAX_PATH:
            return source
        case bytearray() | memoryview():
            return bytes(source)
        case os.PathLike():
            return Path(os.fsdecode(source))
        case ArrayLike() if not isinstance(source, Image.Image):
            return image_from_array(source)
        case _ if isinstance(source, bytes | Image.Image):
            return source
        case _ if hasattr(source, "read") and not isinstance(source, io.TextIOBase):
            return source
    raise ImageError(f"cannot read an image from {_describe(source)}")


def _describe(source: object) -> str:
    """Describe an object that is not an image, and what to do."""
    match source:
        case "":
            return f"an empty text. {_KINDS}"
        case str():
            start = f"{source[:20]!r}..."
            advice = "It is too long for a path; if it is Base64, give base64.b64decode(text)."
            return f"a text of {len(source):,} characters, {start} {advice}"
        case io.TextIOBase():
            return "a file in text mode. Open it in binary mode: open(path, 'rb')."
        case Mapping():
            keys = f"{list(source)!r:.200}"
            return f"a dict with the keys {keys}. Give the value that is the image."
        case None:
            return f"None. {_KINDS}"
    return f"{type(source).__name__}. {_KINDS}"
