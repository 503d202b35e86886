"""Resizing an image to what an encoder sees, without torch: worker processes start in no time.

Equal to torchvision's ``resize`` and ``center_crop`` of Pillow images.
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

INTERPOLATION = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def resized(
    image: Image.Image, size: int, *, interpolation: str = "bicubic", fit: str = "squeeze"
) -> UInt8[np.ndarray, "3 S S"]:
    """Return an RGB image as ``(3, size, size)`` numbers from 0 to 255.

    Args:
        image: The image.
        size: Height and width of the result.
        interpolation: ``bilinear`` or ``bicubic``; antialiased.
        fit: ``squeeze`` keeps the whole image and changes its aspect ratio; ``crop`` takes the
            centre square.
    """
    filter_ = INTERPOLATION[interpolation]
    if fit == "crop":
        short = min(image.size)
        # Far ends never reach the centre square; resizing a long strip whole fills the memory.
        image = _centre(image, min(image.width, 4 * short), min(image.height, 4 * short))
        sides = [size if side == short else int(size * side / short) for side in image.size]
        image = _centre(image.resize((sides[0], sides[1]), filter_), size, size)
    else:
        image = image.resize((size, size), filter_)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
