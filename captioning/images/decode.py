"""Read any image that Pillow can open as an upright RGB image."""

import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageChops, UnidentifiedImageError

from captioning.errors import ImageError
from captioning.images.file_kinds import (
    describe_contents,
    jpeg_header_length,
    learn_heif,
    sizes_inside,
)
from captioning.images.pixels import from_array, to_rgb

MAX_PIXELS = 150_000_000
"""Images of more pixels than this are refused before their pixels are read. It lies below the
size at which Pillow itself refuses, so that Pillow's own limit need not be touched."""

ImageSource = str | Path | bytes | BinaryIO | io.IOBase | Image.Image | np.ndarray

_FOREIGN_PROGRAMS = {"EPS": "Ghostscript", "WMF": "Windows"}
_POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")  # not even opened: Pillow reads it line by line
_OPEN_FLAGS = os.O_RDONLY
for _flag in ("O_BINARY", "O_CLOEXEC", "O_NOCTTY", "O_NONBLOCK"):  # never wait for a pipe's writer
    _OPEN_FLAGS |= getattr(os, _flag, 0)
_HEAD = 512  # bytes that tell what a file is
_SPARE = 4  # times finer than asked for, so that resizing does not show that it was shrunk
_END_OF_JPEG = b"\xff\xd9"
_JPEG_MARKERS = (b"\xff\xc4", b"\xff\xda")  # of the tables before a scan, and of a scan


def read_image(
    source: ImageSource,
    *,
    allow_truncated: bool = False,
    max_pixels: int = MAX_PIXELS,
    shrink_to: int | None = None,
) -> Image.Image:
    """Return an image as RGB, turned as its EXIF orientation says, transparency over white.

    Of an animation it is the first frame, of a TIFF the first page. Its colours are those of sRGB,
    whatever profile the file brings. Safe to call from many threads.

    Args:
        source: A file's path, its bytes, an open binary file, a Pillow image, or an array of 8-bit
            numbers: ``(height, width)``, ``(height, width, 3)`` or, with alpha, ``(.., .., 4)``.
        allow_truncated: Take a file that ends too soon, its missing part black. A progressive JPEG
            of which the first scans are there is whole but blurred.
        max_pixels: Larger images are refused: a few kilobytes can unpack to many gigabytes.
        shrink_to: The image will be resized to this many pixels anyway: a JPEG of more than eight
            times that may be unpacked at a half, a quarter or an eighth of its size, never below
            four times that. It saves time and memory.

    Raises:
        ImageError: The image cannot be read; the message says why.
    """
    _check_type(source)
    name = str(source) if isinstance(source, str | Path) else "the image"
    with _explained(source, name), _quiet_pillow(), _opened(source, name, max_pixels) as image:
        _check(image.size, name, max_pixels)
        _check_program(image.format, name)
        if not isinstance(source, Image.Image):
            _forget_xmp(image)
            if shrink_to is not None:
                image.draft(None, (_SPARE * shrink_to, _SPARE * shrink_to))
        loaded = _load(image, name, allow_truncated)
        _check(loaded.size, name, max_pixels)  # a few formats tell only now
        return to_rgb(loaded)


def _check_type(source: object) -> None:
    one = isinstance(source, str | Path | bytes | Image.Image | np.ndarray)
    if not one and not hasattr(source, "read"):
        found = "None" if source is None else type(source).__name__
        raise ImageError(
            "One image was expected: a path, the bytes of a file, an open binary file, a Pillow "
            f"image or a NumPy array; {found} was found. For several, call the captioner with a "
            "list: captioner([...])."
        )


@contextmanager
def _explained(source: ImageSource, name: str) -> Iterator[None]:
    """Turn whatever goes wrong with an image into an ImageError that says why."""
    try:
        yield
    except ImageError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        link = isinstance(source, str | Path) and Path(source).is_symlink()
        what = "is a link to a file that does not exist" if link else "does not exist"
        raise ImageError(f"{name} {what}. Check the path.") from None
    except PermissionError:
        raise ImageError(f"{name} may not be read by this user. Change its permissions.") from None
    except UnidentifiedImageError:
        raise ImageError(
            f"{name} is no image that can be read: {describe_contents(_beginning(source))}"
        ) from None
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name} is larger than Pillow agrees to unpack: {error} Shrink it."
        ) from None
    except MemoryError as error:
        raise ImageError(
            f"{name} needs more memory than there is. Shrink it, or free some."
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise ImageError(f"{name} cannot be read: {reason}. The file may be damaged.") from error
    except Exception as error:  # format plug-ins raise struct.error, zlib.error and many others
        raise ImageError(
            f"{name} cannot be read: {type(error).__name__}: {error}. The file may be damaged."
        ) from error


@contextmanager
def _opened(source: ImageSource, name: str, max_pixels: int) -> Iterator[Image.Image]:
    if isinstance(source, Image.Image):
        yield source  # it is the caller's to close
    elif isinstance(source, np.ndarray):
        yield from_array(source)
    else:
        with _file(source) as file:
            if _begins(file).startswith(_POSTSCRIPT):
                _check_program("EPS", name)
            for size in sizes_inside(file):
                _check(size, name, max_pixels)
            with _open(file, source) as image:
                yield image


@contextmanager
def _file(source: str | Path | bytes | BinaryIO | io.IOBase) -> Iterator[Any]:
    if isinstance(source, bytes):
        yield io.BytesIO(source)
    elif isinstance(source, str | Path):
        # A device may act on being opened. What lies there may be another file by then.
        _check_kind(Path(source).stat(), source)
        with os.fdopen(os.open(source, _OPEN_FLAGS), "rb") as file:
            _check_kind(os.fstat(file.fileno()), source)
            yield file
    else:
        yield source  # it is the caller's to close


def _check_kind(status: os.stat_result, source: str | Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{source} is a folder, not an image.")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{source} is no ordinary file but a pipe, socket or device.")


def _begins(file: Any) -> bytes:
    """Return the first bytes of an open file, or none where it cannot be rewound."""
    try:
        file.seek(0)
    except (AttributeError, io.UnsupportedOperation):
        return b""
    return file.read(_HEAD)


def _open(file: Any, source: ImageSource) -> Image.Image:
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        if not learn_heif(_beginning(source)):
            raise
        return Image.open(file)


def _check(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    if not width * height:
        raise ImageError(f"{name} has {width} x {height} pixels. Give one that shows something.")
    if width * height > max_pixels:
        raise ImageError(
            f"{name} has {width} x {height} pixels, more than the limit of {max_pixels:,}. "
            "Shrink it."
        )


def _check_program(form: str | None, name: str) -> None:
    if form in _FOREIGN_PROGRAMS:
        raise ImageError(
            f"{name} is an {form} file, which would need {_FOREIGN_PROGRAMS[form]} "
            "to be run on it. Convert it to PNG or JPEG."
        )


def _forget_xmp(image: Image.Image) -> None:
    """Pillow would turn a TIFF as its XMP says, which no viewer does."""
    for key in ("xmp", "XML:com.adobe.xmp"):
        image.info.pop(key, None)


def _load(image: Image.Image, name: str, allow_truncated: bool) -> Image.Image:
    """Read the pixels.

    A file that ends too soon leaves the rows before its end in the image. Pillow's switch for
    keeping them is one for the whole process; taking them here leaves other threads alone.
    """
    try:
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
        coarse = _first_scans(image)
        share = _share_read(coarse or image)
        if share is None:
            raise
        if not allow_truncated or not share:
            raise ImageError(
                f"{name} is cut off or damaged: about {share:.0%} of its rows can be read"
                f"{' coarsely' if coarse and share else ''} ({str(error) or type(error).__name__})."
                f" Fetch it again{', or read it with allow_truncated.' if share else '.'}"
            ) from None
        image = coarse or image
        image.tile = []  # type: ignore[attr-defined]  # nothing is left to be read
    return image


def _share_read(image: Image.Image) -> float | None:
    """Return how much of the height has pixels, or None where none were unpacked at all.

    Rows that were never written are zero. Some formats begin with the bottom row.
    """
    if getattr(image, "_im", None) is None:
        return None
    box = image.im.getbbox()
    return (box[3] - box[1]) / image.im.size[1] if box else 0.0


def _first_scans(image: Image.Image) -> Image.Image | None:
    """Return what a progressive JPEG that ends too soon shows, or None where this is none.

    Its scans go over the whole image, each time finer. The library waits for all of them unless
    the file ends in the marker of the end. Rows that the first scan did not reach are black.
    """
    file = getattr(image, "fp", None)
    if image.format not in ("JPEG", "MPO") or not image.info.get("progressive") or file is None:
        return None
    file.seek(0)
    content = file.read()
    nothing = _ended(content[: jpeg_header_length(content)], image.size)
    # The end may lie within a table, or within the header of a scan.
    for stop in (len(content), *(content.rfind(marker) for marker in _JPEG_MARKERS)):
        coarse = _ended(content[:stop], image.size)
        if coarse and nothing:
            box = ImageChops.difference(coarse, nothing).getbbox()
            rows = coarse.crop((0, 0, coarse.width, box[3])) if box else None
            coarse.paste(0, (0, 0, *coarse.size))
            if rows:
                coarse.paste(rows)
            return coarse
    return None


def _ended(content: bytes, size: tuple[int, int]) -> Image.Image | None:
    with suppress(OSError, SyntaxError, ValueError):
        image = Image.open(io.BytesIO(content + _END_OF_JPEG), formats=["JPEG"])
        image.draft(None, size)
        image.load()
        return image
    return None


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
