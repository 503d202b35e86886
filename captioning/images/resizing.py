"""Resizing to the input of an encoder, without torch, so that worker processes start quickly.

The result equals that of torchvision's ``resize`` and ``center_crop`` for Pillow images.
"""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

INTERPOLATION = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def resize_image(
    image: Image.Image, size: int, *, interpolation: str = "bicubic", fit: str = "squeeze"
) -> UInt8[np.ndarray, "3 S S"]:
    """Return the pixels of an RGB image at ``(size, size)``.

    Args:
        image: The image.
        size: Height and width of the result in pixels.
        interpolation: ``bilinear`` or ``bicubic``, with antialiasing.
        fit: ``squeeze`` keeps the whole image and changes its aspect ratio; ``crop`` takes the
            center square.
    """
    resampling = INTERPOLATION[interpolation]
    if fit == "crop":
        short = min(image.size)
        # The far ends of a long strip do not affect the center square, but would fill the memory.
        image = _center_crop(image, min(image.width, 4 * short), min(image.height, 4 * short))
        sides = [size if side == short else int(size * side / short) for side in image.size]
        image = _center_crop(image.resize((sides[0], sides[1]), resampling), size, size)
    else:
        image = image.resize((size, size), resampling)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _center_crop(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def make_thumbnail(image: Image.Image, side: int) -> bytes:
    """Return an RGB image as a JPEG whose longer side has at most ``side`` pixels."""
    thumbnail = image.copy()
    thumbnail.thumbnail((side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    thumbnail.save(buffer, "JPEG", quality=78)
    return buffer.getvalue()
