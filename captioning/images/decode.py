"""Read any image that Pillow can open as an upright RGB image."""

import io
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, ImageChops, UnidentifiedImageError

from captioning.errors import ImageError
from captioning.images.declared_sizes import jpeg_header_length, read_declared_sizes
from captioning.images.file_kinds import (
    CAMERA_RAW,
    describe_contents,
    is_raw_preview,
    register_decoder,
)
from captioning.images.image_inputs import ImageSource, resolve_input
from captioning.images.pixels import to_rgb

MAX_PIXELS = 150_000_000
"""Largest accepted image in pixels. It is below Pillow's own limit, which stays unchanged."""

_TOO_SMALL = re.compile(r"is smaller than \d+ pixels: it has \d+ x \d+ pixels\.\Z")
_FOREIGN_PROGRAMS = {"EPS": "Ghostscript", "WMF": "Windows"}
_POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")  # never opened: Pillow reads it line by line
_OPEN_FLAGS = os.O_RDONLY
for _flag in ("O_BINARY", "O_CLOEXEC", "O_NOCTTY", "O_NONBLOCK"):  # a pipe must not block
    _OPEN_FLAGS |= getattr(os, _flag, 0)
_HEAD_BYTES = 512
_SHRINK_MARGIN = 2  # factor above the final size, so that shrinking a JPEG early is not visible
_END_OF_JPEG = b"\xff\xd9"
_JPEG_MARKERS = (b"\xff\xc4", b"\xff\xda")  # Huffman tables, and start of a scan
_UNNAMED = "the image"


def read_image(
    source: ImageSource,
    *,
    name: str = "",
    allow_truncated: bool = False,
    max_pixels: int = MAX_PIXELS,
    min_side: int = 0,
    shrink_to: int | None = None,
) -> Image.Image:
    """Return an image as RGB: turned by its EXIF orientation, with transparency over white.

    For an animation it is the first frame, for a TIFF the first page. Colors are converted from
    the embedded profile to sRGB. Thread-safe.

    Args:
        source: A path, the bytes of a file, an open binary file, a Pillow image, or an array or a
            tensor (:func:`captioning.images.arrays.image_from_array`).
        name: Name of the image in error messages, if it is not a path.
        allow_truncated: Accept incomplete files; the missing part is black. A progressive JPEG
            with only its first scans is complete but blurred.
        max_pixels: Largest accepted image; a few kilobytes can decompress to many gigabytes.
        min_side: Smallest accepted shorter side, in pixels.
        shrink_to: Side in pixels to which the image will be resized later. A JPEG of more than
            four times this side may be decoded at 1/2, 1/4 or 1/8 of its size, but at least at
            twice this side, to save time and memory.

    Raises:
        ImageError: The image cannot be read; the message gives the reason.
    """
    with _translate_errors(f"'{name}'" if name else _UNNAMED):
        source = resolve_input(source)
    if isinstance(source, str | Path):
        name = str(source)
    name = f"'{name}'" if name else _UNNAMED
    with (
        _translate_errors(name),
        _ignore_pillow_warnings(),
        _open_source(source, name, max_pixels) as image,
    ):
        _check_size(image.size, name, max_pixels)
        if min(image.size) < min_side:
            size = f"{image.width} x {image.height} pixels"
            raise ImageError(f"{name} is smaller than {min_side} pixels: it has {size}.")
        _check_program(image.format, name)
        if image is not source:
            for key in ("xmp", "XML:com.adobe.xmp"):  # Pillow would apply its orientation
                image.info.pop(key, None)
            if shrink_to is not None:
                image.draft(None, (_SHRINK_MARGIN * shrink_to, _SHRINK_MARGIN * shrink_to))
        loaded = _load(image, name, allow_truncated)
        _check_size(loaded.size, name, max_pixels)  # some formats know their size only now
        return to_rgb(loaded)


def is_too_small(error: str) -> bool:
    """Return whether an error says that the shorter side of an image is below the minimum."""
    return _TOO_SMALL.search(error) is not None


@contextmanager
def _translate_errors(name: str) -> Iterator[None]:
    """Turn every exception into an ImageError with the reason."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # decoders raise struct.error, zlib.error and many others
        raise ImageError(f"cannot read {name}: {_explain(error)}") from error


def _explain(error: Exception) -> str:
    match error:
        case FileNotFoundError(filename=str() | Path() as path) if Path(path).is_symlink():
            reason = "it is a link to a file that does not exist. Check the path."
            if "annex" in Path(path).readlink().parts:
                reason = "its content is not in this clone. Run: git annex get."
        case FileNotFoundError() | NotADirectoryError():
            reason = "no such file. Check the path."
        case PermissionError():
            reason = "permission denied. Change its permissions."
        case Image.DecompressionBombError():
            pixels = re.search(r"\d+", str(error))
            reason = f"it has too many pixels ({int(pixels[0]) if pixels else 0:,}). Shrink it."
        case MemoryError():
            reason = "not enough memory. Shrink it."
        case ValueError() if "embedded null" in str(error):
            reason = "a path cannot contain a null byte. Check the path."
        case ValueError() | AssertionError() if "closed" in str(error) or not str(error):
            reason = "it is closed or damaged. Open it again."
        case OSError():
            reason = f"{error.strerror or error}. The file may be damaged."
        case _:
            reason = f"{type(error).__name__}: {error}. The file may be damaged."
    return reason


@contextmanager
def _open_source(source: Any, name: str, max_pixels: int) -> Iterator[Image.Image]:
    if isinstance(source, Image.Image):
        yield source  # the caller closes it
    else:
        with _open_file(source) as file:
            if _read_start(file).startswith(_POSTSCRIPT):
                _check_program("EPS", name)
            for size in read_declared_sizes(file):
                _check_size(size, name, max_pixels)
            with _open_image(file, name) as image:
                yield image


@contextmanager
def _open_file(source: str | Path | bytes | BinaryIO | io.IOBase) -> Iterator[Any]:
    if isinstance(source, bytes):
        yield io.BytesIO(source)
    elif isinstance(source, str | Path):
        # Checked twice: opening a device may have effects, and the path may change in between.
        _check_regular_file(Path(source).stat(), source)
        with os.fdopen(os.open(source, _OPEN_FLAGS), "rb") as file:
            _check_regular_file(os.fstat(file.fileno()), source)
            yield file
    else:
        yield source  # the caller closes it


def _check_regular_file(status: os.stat_result, source: str | Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"cannot read '{source}': it is a folder, not an image. Check the path.")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"cannot read '{source}': it is a pipe, socket or device. Check the path.")


def _read_start(file: Any) -> bytes:
    """Return the first bytes of an open file; empty if it cannot be rewound."""
    try:
        file.seek(0)
    except (AttributeError, io.UnsupportedOperation):
        return b""
    return file.read(_HEAD_BYTES)


def _open_image(file: Any, name: str) -> Image.Image:
    head = _read_start(file)
    try:
        image = Image.open(file)
    except UnidentifiedImageError:
        if not register_decoder(head):
            reason = describe_contents(head, name.strip("'"))
            raise ImageError(f"cannot read {name}: {reason}") from None
        return Image.open(file)
    if image.format == "TIFF" and is_raw_preview(head, image):
        raise ImageError(f"cannot read {name}: file {CAMERA_RAW.explanation}")
    return image


def _check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    if not width * height:
        raise ImageError(f"cannot read {name}: it has {width} x {height} pixels. Check the file.")
    if width * height > max_pixels:
        raise ImageError(
            f"cannot read {name}: it has {width} x {height} pixels; the limit is {max_pixels:,}. "
            "Shrink it."
        )


def _check_program(format_name: str | None, name: str) -> None:
    if format_name in _FOREIGN_PROGRAMS:
        raise ImageError(
            f"cannot read {name}: {format_name} files need {_FOREIGN_PROGRAMS[format_name]}. "
            "Convert it to PNG or JPEG."
        )


def _load(image: Image.Image, name: str, allow_truncated: bool) -> Image.Image:
    """Decode the pixels.

    After an incomplete file, Pillow leaves the rows before its end in the image. They are taken
    from there, because Pillow's own switch for this is global and would affect other threads.
    """
    try:
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
        coarse = _decode_first_scans(image)
        share = _decoded_share(coarse or image)
        if share is None:
            raise
        if not allow_truncated or not share:
            raise ImageError(
                f"cannot read {name}: it is incomplete or damaged: about {share:.0%} of its rows "
                f"are readable{' at low quality' if coarse and share else ''} "
                f"({str(error) or type(error).__name__}). Download it again"
                f"{', or use captioning caption --allow-truncated.' if share else '.'}"
            ) from None
        image = coarse or image
        image.tile = []  # type: ignore[attr-defined]  # nothing is left to decode
    return image


def _decoded_share(image: Image.Image) -> float | None:
    """Return the share of rows that have pixels, or None if no memory was allocated.

    Rows that were never decoded are zero. Some formats start with the bottom row.
    """
    if getattr(image, "_im", None) is None:
        return None
    box = image.im.getbbox()
    return (box[3] - box[1]) / image.im.size[1] if box else 0.0


def _decode_first_scans(image: Image.Image) -> Image.Image | None:
    """Return what the scans of an incomplete progressive JPEG show; None for other images.

    Each scan covers the whole image at a higher quality. The library waits for all of them unless
    the file ends with an end marker. Rows that the first scan did not reach are black.
    """
    file = getattr(image, "fp", None)
    if image.format not in ("JPEG", "MPO") or not image.info.get("progressive") or file is None:
        return None
    file.seek(0)
    content = file.read()
    without_scans = _decode_with_end_marker(content[: jpeg_header_length(content)], image.size)
    # The file may end inside a table or inside the header of a scan.
    for end in (len(content), *(content.rfind(marker) for marker in _JPEG_MARKERS)):
        coarse = _decode_with_end_marker(content[:end], image.size)
        if coarse and without_scans:
            box = ImageChops.difference(coarse, without_scans).getbbox()
            rows = coarse.crop((0, 0, coarse.width, box[3])) if box else None
            coarse.paste(0, (0, 0, *coarse.size))
            if rows:
                coarse.paste(rows)
            return coarse
    return None


def _decode_with_end_marker(content: bytes, size: tuple[int, int]) -> Image.Image | None:
    with suppress(OSError, SyntaxError, ValueError):
        image = Image.open(io.BytesIO(content + _END_OF_JPEG), formats=["JPEG"])
        image.draft(None, size)
        image.load()
        return image
    return None


_lock = threading.Lock()
_readers = 0


@contextmanager
def _ignore_pillow_warnings() -> Iterator[None]:
    """Ignore Pillow's warnings about odd metadata, which does not affect the pixels.

    ``warnings.catch_warnings`` restores the filters of the whole process, so that two overlapping
    threads would undo each other. Here the first reader adds a filter and the last one removes it.
    """
    global _readers  # noqa: PLW0603
    with _lock:
        _readers += 1
        warnings.filterwarnings("ignore", module=r"PIL\.")  # repeated calls add it only once
        added = warnings.filters[0]
    try:
        yield
    finally:
        with _lock, suppress(ValueError):
            _readers -= 1
            if not _readers:
                warnings.filters.remove(added)  # type: ignore[attr-defined]
