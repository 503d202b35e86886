"""Conversion of any Pillow image to an upright 8-bit RGB image in sRGB."""

import io
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageCms

_ORIENTATION = 0x0112
_UPRIGHT = {  # EXIF 2.32, section 4.6.4: the operation that undoes each orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF = ("exif", "Raw profile type exif")  # keys of Pillow; the orientation in XMP is ignored

# TIFF 6.0, sections 8 and 19
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_STATED_RANGES = ((340, 341), (280, 281))  # SMinSampleValue, SMaxSampleValue; the same without S
_WHITE_IS_ZERO = 0
_UNSIGNED, _FLOAT = 1, 3
_WHITE_LEVELS = (1, 255, 1023, 4095, 16383, 65535)  # floats; 8, 10, 12, 14 and 16 bits
_OVERSHOOT = 1.1  # floats exceed their range after resampling with ringing
_MAX_UNUSED = 8  # a range is not assumed if the brightest value is below an eighth of it
_STRIP_PIXELS = 1 << 22  # converted at a time, to save memory

_PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_SAME_COLORS = 3  # of 255; a profile with smaller changes is sRGB up to rounding
_MIN_CONTRAST = 64  # of 255, between white and black; a profile with less is damaged


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a decoded image to a new image of mode RGB.

    The image is turned by its EXIF orientation, and transparency is placed over white. An embedded
    color profile other than sRGB is applied; a damaged one is ignored.

    Grays with more than 8 bits, or in floating point, become 8 bits by the first rule that applies:

    1. The range of samples that a TIFF states (SMinSampleValue and SMaxSampleValue, or
       MinSampleValue and MaxSampleValue, or 12 bits per sample) is used, unless a value lies
       outside it or it is only the range of the type.
    2. With negative values, the smallest value is black and the largest is white.
    3. Otherwise 0 is black. White is the smallest of 1, 255, 1023, 4095, 16383 and 65535 that no
       value exceeds (in floating point, by more than a tenth). But white is the largest value if
       this is above 65535, or below an eighth of the number found.

    NaN and infinity are black. A TIFF with white as zero is inverted.

    The result has no metadata, so that reading it again does not turn or convert it again.

    Raises:
        ValueError: Pillow cannot convert the image's mode to RGB.
    """
    profile = image.info.get("icc_profile")
    tags = getattr(image, "tag_v2", {})
    upright = _apply_orientation(image, tags)
    if upright.mode.startswith("I") or upright.mode == "F":
        upright = _reduce_to_8_bits(upright, tags)
    colors, alpha = _split_alpha(upright)
    rgb = _convert_to_srgb(colors, profile)
    if alpha is not None:
        rgb.paste("white", mask=ImageChops.invert(alpha))
    if rgb is image:
        rgb = image.copy()
    rgb.info = {}
    return rgb


def _apply_orientation(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    bare = Image.Image()  # without XMP, from which Pillow would take an orientation
    bare.info = {key: image.info[key] for key in _EXIF if key in image.info}
    orientation = tags.get(_ORIENTATION)  # Pillow has turned a complete TIFF already
    with suppress(Exception):  # damaged metadata must not fail the image
        if not tags:
            orientation = bare.getexif().get(_ORIENTATION)
    operation = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if operation is None else image.transpose(operation)


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return the colors, in a mode that profiles support, and the alpha channel or None."""
    if image.has_transparency_data:
        gray = image.mode in ("1", "L", "LA", "La")
        transparent = image.info.get("transparency")
        if image.mode == "RGB" and isinstance(transparent, tuple) and max(transparent) > 255:
            # the color has 16 bits, but Pillow keeps the upper 8 bits of the image
            image = image.copy()
            image.info["transparency"] = tuple(value >> 8 for value in transparent)
        if image.mode != (with_alpha := "LA" if gray else "RGBA"):
            image = image.convert(with_alpha)
        return image.convert("L" if gray else "RGB"), image.getchannel("A")
    if image.mode == "1":
        return image.convert("L"), None
    is_supported = image.mode in ("L", "RGB", "CMYK", "LAB")
    return (image if is_supported else image.convert("RGB")), None


# --- more than 8 bits ----------------------------------------------------------------------------


def _reduce_to_8_bits(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    values = np.asarray(image)
    if (_first_value(tags, _BITS), _first_value(tags, _SAMPLE_FORMAT, _UNSIGNED)) == (
        32,
        _UNSIGNED,
    ):
        values = values.astype(np.int32).view(np.uint32)  # Pillow reads them as signed
    low, high = _find_range(values, tags)
    gray = np.empty(values.shape, np.uint8)
    for rows in _row_slices(values):
        with np.errstate(invalid="ignore"):  # of signalling NaN
            part = values[rows].astype(np.float64)
        part[~np.isfinite(part)] = low
        part = (part - low) * (255 / (high - low))
        gray[rows] = part.round().clip(0, 255)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        np.subtract(255, gray, out=gray)
    result = Image.fromarray(gray)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        result.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return result


def _row_slices(values: np.ndarray) -> Iterator[slice]:
    height = max(1, _STRIP_PIXELS // values.shape[1])
    for start in range(0, len(values), height):
        yield slice(start, start + height)


def _find_range(values: np.ndarray, tags: Mapping[int, Any]) -> tuple[float, float]:
    """Return the values of black and white; see :func:`to_rgb` for the rules."""
    low, high = np.inf, -np.inf
    for rows in _row_slices(values):
        part = values[rows][np.isfinite(values[rows])]
        if part.size:
            low, high = min(low, float(part.min())), max(high, float(part.max()))
    if low > high:  # all values are NaN or infinite
        return 0.0, 1.0
    stated = _read_stated_range(tags)
    if stated and stated[0] <= low and high <= stated[1]:
        return stated
    if low < 0:
        return low, high if high > low else low + 1
    tolerance = _OVERSHOOT if values.dtype.kind == "f" else 1.0
    white = next((level for level in _WHITE_LEVELS if high <= level * tolerance), high)
    return 0.0, float(white if high * _MAX_UNUSED >= white else high) or 1.0


def _read_stated_range(tags: Mapping[int, Any]) -> tuple[float, float] | None:
    bits = _first_value(tags, _BITS, 0)
    for low_tag, high_tag in _STATED_RANGES:
        low, high = _first_value(tags, low_tag, 0), _first_value(tags, high_tag)
        with suppress(TypeError, ValueError, OverflowError, ZeroDivisionError):
            low, high = float(low), float(high)
            is_full_range = (
                _first_value(tags, _SAMPLE_FORMAT) != _FLOAT and high - low >= 2**bits - 1
            )
            if np.isfinite([low, high]).all() and high > low and not is_full_range:
                return low, high
    return (0.0, 4095.0) if bits == 12 else None


def _first_value(tags: Mapping[int, Any], tag: int, default: Any = None) -> Any:
    """Return the value of a tag, or its first value if there is one per channel."""
    value = tags.get(tag, default)
    return (value[0] if value else default) if isinstance(value, tuple) else value


# --- color profiles -----------------------------------------------------------------------------


def _convert_to_srgb(image: Image.Image, profile: object) -> Image.Image:
    transform = None
    if image.mode == "LAB":
        transform = _cached_transform(b"", "LAB")  # the mode defines the colors
    elif isinstance(profile, bytes) and profile:
        transform = _cached_transform(profile, image.mode)
    if transform is not None:
        if image.mode != transform.input_mode:
            image = image.convert(transform.input_mode)
        with suppress(ValueError, TypeError, OSError):
            return transform.apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")


@lru_cache(maxsize=16)
def _cached_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from a profile to sRGB, or None if none is needed.

    The images of a folder often share a profile, and building the transform of a CMYK profile
    takes longer than applying it.
    """
    with suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError, ImportError):
        return _build_transform(profile, mode)
    return None  # a damaged profile must not fail the image


def _build_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    if mode == "LAB":
        source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        input_mode: str | None = "LAB"
    else:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        input_mode = _PROFILE_MODES.get(source.profile.xcolor_space.strip())
    if input_mode is None or (mode != input_mode and (mode, input_mode) != ("L", "RGB")):
        return None  # the profile is for another mode
    transform = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        input_mode,
        "RGB",
        ImageCms.Intent.PERCEPTUAL,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    return transform if input_mode == "LAB" or _changes_colors(transform) else None


def _changes_colors(transform: ImageCms.ImageCmsTransform) -> bool:
    """Return whether a profile is valid and not sRGB, by its effect on sample colors."""
    mode = transform.input_mode
    levels = np.arange(0, 256, 51 if mode == "RGB" else 85 if mode == "CMYK" else 5)
    grid = np.stack(np.meshgrid(*[levels] * Image.getmodebands(mode)), -1).astype(np.uint8)
    probe = Image.frombytes(mode, (grid.size // grid.shape[-1], 1), grid.tobytes())
    converted = np.asarray(transform.apply(probe)).astype(int)
    unchanged = np.asarray(probe.convert("RGB")).astype(int)
    brightness = converted[0].sum(1)
    expected = unchanged[0].sum(1)
    contrast = (brightness[expected.argmax()] - brightness[expected.argmin()]) / 3
    is_valid = contrast >= _MIN_CONTRAST
    return bool(is_valid and np.abs(converted - unchanged).max() > _SAME_COLORS)
