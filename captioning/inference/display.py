"""What notebooks show of captioners and results."""

import base64
import os
from collections.abc import Mapping
from html import escape

from PIL import Image

from captioning.errors import ImageError
from captioning.images.decode import read_image
from captioning.images.image_inputs import ImageSource
from captioning.images.resizing import make_thumbnail

_PREVIEW_SIDE = 240  # pixels


def make_preview(image: Image.Image) -> bytes:
    """Return a small JPEG of an RGB image."""
    return make_thumbnail(image, _PREVIEW_SIDE)


def read_preview(path: str) -> bytes:
    """Return a small JPEG of an image file; empty if the file cannot be read."""
    try:
        return make_preview(read_image(path, shrink_to=_PREVIEW_SIDE))
    except ImageError:
        return b""


def image_html(jpeg: bytes) -> str:
    """Return an ``img`` element with the image inside; empty for no image."""
    data = base64.b64encode(jpeg).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{data}" alt="">' if jpeg else ""


def table_html(title: str, facts: Mapping[str, str]) -> str:
    """Return a table with a row for each fact."""
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(fact)}</td></tr>" for name, fact in facts.items()
    )
    return f"<table><caption>{escape(title)}</caption>{rows}</table>"


def name_source(image: ImageSource, otherwise: str) -> str:
    """Return the path or URL of an image, or ``otherwise`` if it has none."""
    return os.fspath(image) if isinstance(image, str | os.PathLike) else otherwise
