"""Read any picture that Pillow can open as an upright RGB picture."""

import io
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from captioning.data.image_kinds import describe_contents, learn_heif
from captioning.errors import ImageError

MAX_PIXELS = 150_000_000
"""Pictures of more pixels than this are refused before their pixels are read. It lies below the
size at which Pillow itself refuses, so that Pillow's own limit need not be touched."""

ImageSource = str | Path | bytes | BinaryIO | io.IOBase | Image.Image | np.ndarray

_FOREIGN_PROGRAMS = {"EPS": "Ghostscript", "WMF": "Windows"}
_HEAD = 512  # bytes that tell what a file is
_SPARE = 4  # times finer than asked for, so that resizing does not show that it was shrunk
_ORIENTATION = 0x0112
_UPRIGHT = {  # EXIF 2.32, section 4.6.4: what undoes each orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(
    source: ImageSource,
    *,
    allow_truncated: bool = False,
    max_pixels: int = MAX_PIXELS,
    shrink_to: int | None = None,
) -> Image.Image:
    """Return a picture as RGB, turned as its EXIF orientation says, transparency over white.

    Of an animation it is the first frame, of a TIFF the first page. Safe to call from many threads.

    Args:
        source: A file's path, its bytes, an open binary file, a Pillow image, or an array of 8-bit
            numbers: ``(height, width)``, ``(height, width, 3)`` or, with alpha, ``(.., .., 4)``.
        allow_truncated: Take a file that ends too soon, its missing part black.
        max_pixels: Larger pictures are refused: a few kilobytes can unpack to many gigabytes.
        shrink_to: The picture will be resized to this many pixels anyway: a JPEG of more than eight
            times that may be unpacked at a half, a quarter or an eighth of its size, never below
            four times that. It saves time and memory.

    Raises:
        ImageError: The picture cannot be read; the message says why.
    """
    name = str(source) if isinstance(source, str | Path) else "the picture"
    try:
        with _quiet_pillow(), _opened(source) as image:
            _check(image, name, max_pixels)
            if shrink_to is not None and not isinstance(source, Image.Image):
                image.draft(None, (_SPARE * shrink_to, _SPARE * shrink_to))
            _load(image, name, allow_truncated)
            return _to_rgb(image)
    except ImageError:
        raise
    except FileNotFoundError:
        link = isinstance(source, str | Path) and Path(source).is_symlink()
        what = "is a link to a file that does not exist" if link else "does not exist"
        raise ImageError(f"{name} {what}. Check the path.") from None
    except IsADirectoryError:
        raise ImageError(f"{name} is a folder, not a picture.") from None
    except PermissionError:
        raise ImageError(f"{name} may not be read by this user. Change its permissions.") from None
    except UnidentifiedImageError:
        raise ImageError(
            f"{name} is no picture that can be read: {describe_contents(_beginning(source))}"
        ) from None
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name} is larger than Pillow agrees to unpack: {error} "
            "Shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it."
        ) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise ImageError(f"{name} cannot be read: {reason}. The file may be damaged.") from error
    except Exception as error:  # format plug-ins raise struct.error, zlib.error and many others
        raise ImageError(
            f"{name} cannot be read: {type(error).__name__}: {error}. The file may be damaged."
        ) from error


@contextmanager
def _opened(source: ImageSource) -> Iterator[Image.Image]:
    if isinstance(source, Image.Image):
        yield source  # it is the caller's to close
    elif isinstance(source, np.ndarray):
        yield _from_array(source)
    else:
        if isinstance(source, str | Path) and not _may_be_opened(Path(source).stat().st_mode):
            raise ImageError(f"{source} is no ordinary file but a pipe, socket or device.")
        with _open(source) as image:
            yield image


def _open(source: str | Path | bytes | BinaryIO | io.IOBase) -> Image.Image:
    file: Any = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        if not learn_heif(_beginning(source)):
            raise
        return Image.open(file)


def _may_be_opened(mode: int) -> bool:
    """Opening a pipe that nobody writes to would wait for ever; a folder gives its own error."""
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def _from_array(values: np.ndarray) -> Image.Image:
    channels = values.shape[2:]
    if values.dtype != np.uint8 or values.ndim not in (2, 3) or channels not in ((), (3,), (4,)):
        raise ImageError(
            f"An array of shape {values.shape} and type {values.dtype} is no picture. Give "
            "(height, width), (height, width, 3) or (height, width, 4) of type uint8."
        )
    if not values.size:
        raise ImageError(f"An array of shape {values.shape} has no pixels.")
    return Image.fromarray(np.ascontiguousarray(values))


def _check(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{name} has {width} x {height} pixels, more than the limit of {max_pixels:,}. "
            "Shrink it, or raise max_pixels."
        )
    if image.format in _FOREIGN_PROGRAMS:
        raise ImageError(
            f"{name} is an {image.format} file, which would need {_FOREIGN_PROGRAMS[image.format]} "
            "to be run on it. Convert it to PNG or JPEG."
        )


def _load(image: Image.Image, name: str, allow_truncated: bool) -> None:
    """Read the pixels.

    A file that ends too soon leaves the rows before its end in the image. Pillow's switch for
    keeping them is one for the whole process; taking them here leaves other threads alone.
    """
    try:
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
        share = _share_read(image)
        if share is None:
            raise
        if not allow_truncated or not share:
            raise ImageError(
                f"{name} is cut off or damaged: about {share:.0%} of its rows can be read "
                f"({str(error) or type(error).__name__}). Fetch it again"
                f"{', or read it with allow_truncated.' if share else '.'}"
            ) from None
        image.tile = []  # type: ignore[attr-defined]  # nothing is left to be read


def _share_read(image: Image.Image) -> float | None:
    """Return how much of the height has pixels, or None where none were unpacked at all.

    Rows that were never written are zero. Some formats begin with the bottom row.
    """
    if not getattr(image, "tile", None) or getattr(image, "_im", None) is None:
        return None
    box = image.im.getbbox()
    return (box[3] - box[1]) / image.height if box else 0.0


def _to_rgb(image: Image.Image) -> Image.Image:
    image = _upright(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_grey(image)
    if image.mode == "La":
        image = image.convert("LA")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa"):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # damaged metadata must not cost the picture
        return image
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    if turn is None:
        return image
    return image.transpose(turn)


def _to_grey(image: Image.Image) -> Image.Image:
    """Bring 16-bit, 32-bit and floating-point greys to 8 bits."""
    values = np.asarray(image).astype(np.float32)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    top = float(values.max(initial=0.0))
    if image.mode.startswith("I;16") or top > 255:
        scale = 255 / (65535 if top <= 65535 else top)
    else:
        scale = 255.0 if top <= 1 and image.mode == "F" else 1.0
    return Image.fromarray((values * scale).round().clip(0, 255).astype(np.uint8))


def _beginning(source: ImageSource) -> bytes:
    if isinstance(source, bytes):
        return source[:_HEAD]
    if isinstance(source, str | Path):
        with suppress(OSError), Path(source).open("rb") as file:
            return file.read(_HEAD)
    return b"?"


_lock = threading.Lock()
_readers = 0


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Keep Pillow's warnings of odd metadata, which changes no pixel, from the caller.

    ``warnings.catch_warnings`` puts back the filters of the whole process, so two threads that
    overlap would undo each other. Here the first reader adds one filter and the last takes it away.
    """
    global _readers  # noqa: PLW0603
    with _lock:
        _readers += 1
        warnings.filterwarnings("ignore", module=r"PIL\.")  # once, however often it is asked for
        ours = warnings.filters[0]
    try:
        yield
    finally:
        with _lock, suppress(ValueError):
            _readers -= 1
            if not _readers:
                warnings.filters.remove(ours)  # type: ignore[attr-defined]
