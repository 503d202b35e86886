"""Read any picture that Pillow can open as an upright RGB picture."""

import io
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from captioning.errors import ImageError

MAX_PIXELS = 250_000_000
"""Pictures of more pixels than this are refused before their pixels are read."""

ImageSource = str | Path | bytes | BinaryIO | Image.Image


def read_image(
    source: ImageSource, *, allow_truncated: bool = False, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Return a picture as RGB, turned as its EXIF orientation says, transparency over white.

    Args:
        source: A file's path, its bytes, an open binary file, or a Pillow image.
        allow_truncated: Take a file that ends too soon, its missing part grey.
        max_pixels: Larger pictures are refused: a few kilobytes can unpack to many gigabytes.

    Raises:
        ImageError: The picture cannot be read; the message says why.
    """
    name = str(source) if isinstance(source, str | Path) else "the picture"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata that changes no pixel
            image = source if isinstance(source, Image.Image) else _open(source)
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(
                    f"{name} has {width} x {height} pixels, more than the limit of {max_pixels:,}. "
                    "Shrink it, or raise max_pixels."
                )
            return _to_rgb(_load(image, source, allow_truncated))
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{name} does not exist. Check the path.") from None
    except IsADirectoryError:
        raise ImageError(f"{name} is a folder, not a picture.") from None
    except UnidentifiedImageError:
        raise ImageError(
            f"{name} is no picture in a format that Pillow knows{_beginning(source)}. "
            "Open it in a viewer; if that fails too, the file is damaged."
        ) from None
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, ArithmeticError) as error:
        raise ImageError(f"{name} cannot be read: {error}. The file may be damaged.") from error
    except Exception as error:  # format plug-ins raise struct.error, zlib.error and others
        raise ImageError(
            f"{name} cannot be read: {type(error).__name__}: {error}. The file may be damaged."
        ) from error


def _open(source: str | Path | bytes | BinaryIO) -> Image.Image:
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # our own limit is checked
    try:
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _beginning(source: ImageSource) -> str:
    if not isinstance(source, str | Path):
        return ""
    with Path(source).open("rb") as file:
        head = file.read(12)
    return f" (it begins with {head!r})" if head else " (it is empty)"


def _load(image: Image.Image, source: ImageSource, allow_truncated: bool) -> Image.Image:
    try:
        image.load()
    except OSError:
        if not allow_truncated or isinstance(source, Image.Image):
            raise
        from PIL import ImageFile

        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
        try:
            image.load()
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_grey(image)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_grey(image: Image.Image) -> Image.Image:
    """Bring 16-bit, 32-bit and floating-point greys to 8 bits."""
    values = np.asarray(image, dtype=np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    top = values.max(initial=0.0)
    if image.mode.startswith("I;16") or top > 255:
        scale = 255 / (65535 if top <= 65535 else top)
    else:
        scale = 255.0 if top <= 1 and image.mode == "F" else 1.0
    return Image.fromarray((values * scale).clip(0, 255).astype(np.uint8))
