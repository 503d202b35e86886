"""The pixels of any Pillow mode as an upright 8-bit RGB image in the colours of sRGB."""

import hashlib
import io
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageCms

from captioning.errors import ImageError

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
_EXIF = ("exif", "Raw profile type exif")  # where Pillow keeps it; what XMP says is not asked

# TIFF 6.0, sections 8 and 19
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_STATED_RANGES = ((340, 341), (280, 281))  # SMinSampleValue, SMaxSampleValue; without the S
_WHITE_IS_ZERO = 0
_UNSIGNED, _FLOAT = 1, 3
_TOPS = (1, 255, 1023, 4095, 16383, 65535)  # 8, 10, 12, 14 and 16 bits; floats from 0 to 1
_OVERSHOOT = 1.1  # of floats, after a resampling that rings
_DIM = 8  # an image whose brightest value is below an eighth of a range is not of that range
_STRIP = 1 << 22  # pixels that are converted at a time, to save memory

_PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_SAME_COLOURS = 3  # of 255: a profile that changes no colour by more is sRGB but for rounding
_LEAST_CONTRAST = 64  # of 255, between the white and the black of a profile that makes sense
_MAX_TRANSFORMS = 16


def from_array(values: np.ndarray) -> Image.Image:
    """Return 8-bit numbers ``(height, width)``, or with 3 or 4 channels last, as an image.

    Raises:
        ImageError: They are of another type or shape.
    """
    channels = values.shape[2:]
    if values.dtype != np.uint8 or values.ndim not in (2, 3) or channels not in ((), (3,), (4,)):
        raise ImageError(
            f"An array of shape {values.shape} and type {values.dtype} is no image. Give "
            "(height, width), (height, width, 3) or (height, width, 4) of type uint8."
        )
    if not values.size:
        raise ImageError(f"An array of shape {values.shape} has no pixels.")
    return Image.fromarray(np.ascontiguousarray(values))


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a loaded image as a new one of mode RGB.

    It is turned as its EXIF orientation says and lies over white where it is transparent. An
    embedded colour profile that is not sRGB's is applied; one that is damaged is ignored.

    Greys of more than 8 bits and floating-point ones become 8 bits by the first rule that fits:

    1. A TIFF that states the range of its samples (SMinSampleValue and SMaxSampleValue, or
       MinSampleValue and MaxSampleValue, or 12 bits a sample) is believed, unless a value lies
       outside it or the range is only that of the type.
    2. Where there are negative values, the least one becomes black and the greatest white.
    3. Else 0 is black, and white the least of 1, 255, 1023, 4095, 16383 and 65535 that no value
       exceeds (a floating-point one by a tenth), or the greatest value, where that is more than
       65535 or less than an eighth of the number found.

    What is no number is black. A TIFF in which white is zero is inverted.

    The result carries no metadata, so that nothing is done twice where it is read again.

    Raises:
        ValueError: Pillow knows no way from the image's mode to RGB.
    """
    profile = image.info.get("icc_profile")
    tags = getattr(image, "tag_v2", {})
    upright = _upright(image, tags)
    if upright.mode.startswith("I") or upright.mode == "F":
        upright = _to_8_bits(upright, tags)
    colours, alpha = _split(upright)
    rgb = _to_srgb(colours, profile)
    if alpha is not None:
        rgb.paste("white", mask=ImageChops.invert(alpha))
    if rgb is image:
        rgb = image.copy()
    rgb.info = {}
    return rgb


def _upright(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    bare = Image.Image()  # asks for the EXIF and nothing else
    bare.info = {key: image.info[key] for key in _EXIF if key in image.info}
    orientation = tags.get(_ORIENTATION)  # Pillow turns a TIFF, unless it is cut short
    with suppress(Exception):  # damaged metadata must not cost the image
        if not tags:
            orientation = bare.getexif().get(_ORIENTATION)
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _split(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return the colours, in a mode that a profile may be for, and how opaque each pixel is."""
    if image.has_transparency_data:
        grey = image.mode in ("1", "L", "LA", "La")
        transparent = image.info.get("transparency")
        if image.mode == "RGB" and isinstance(transparent, tuple) and max(transparent) > 255:
            # of an image of 16 bits, of which Pillow kept the upper 8
            image = image.copy()
            image.info["transparency"] = tuple(value >> 8 for value in transparent)
        if image.mode != (with_alpha := "LA" if grey else "RGBA"):
            image = image.convert(with_alpha)
        return image.convert("L" if grey else "RGB"), image.getchannel("A")
    if image.mode == "1":
        return image.convert("L"), None
    known = image.mode in ("L", "RGB", "CMYK", "LAB")
    return (image if known else image.convert("RGB")), None


# --- more than 8 bits ----------------------------------------------------------------------------


def _to_8_bits(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    values = np.asarray(image)
    if (_first(tags, _BITS), _first(tags, _SAMPLE_FORMAT, _UNSIGNED)) == (32, _UNSIGNED):
        values = values.astype(np.int32).view(np.uint32)  # Pillow takes them for signed ones
    low, high = _range(values, tags)
    grey = np.empty(values.shape, np.uint8)
    for rows in _strips(values):
        with np.errstate(invalid="ignore"):  # of a NaN that is meant to be noticed
            part = values[rows].astype(np.float64)
        part[~np.isfinite(part)] = low
        part = (part - low) * (255 / (high - low))
        grey[rows] = part.round().clip(0, 255)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        np.subtract(255, grey, out=grey)
    result = Image.fromarray(grey)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        result.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return result


def _strips(values: np.ndarray) -> Iterator[slice]:
    height = max(1, _STRIP // values.shape[1])
    for start in range(0, len(values), height):
        yield slice(start, start + height)


def _range(values: np.ndarray, tags: Mapping[int, Any]) -> tuple[float, float]:
    """Return which values are black and white; ``to_rgb`` states the rule."""
    low, high = np.inf, -np.inf
    for rows in _strips(values):
        part = values[rows][np.isfinite(values[rows])]
        if part.size:
            low, high = min(low, float(part.min())), max(high, float(part.max()))
    if low > high:  # not one number
        return 0.0, 1.0
    stated = _stated_range(tags)
    if stated and stated[0] <= low and high <= stated[1]:
        return stated
    if low < 0:
        return low, high if high > low else low + 1
    slack = _OVERSHOOT if values.dtype.kind == "f" else 1.0
    top = next((top for top in _TOPS if high <= top * slack), high)
    return 0.0, float(top if high * _DIM >= top else high) or 1.0


def _stated_range(tags: Mapping[int, Any]) -> tuple[float, float] | None:
    bits = _first(tags, _BITS, 0)
    for least, greatest in _STATED_RANGES:
        low, high = _first(tags, least, 0), _first(tags, greatest)
        with suppress(TypeError, ValueError, OverflowError, ZeroDivisionError):
            low, high = float(low), float(high)
            full = _first(tags, _SAMPLE_FORMAT) != _FLOAT and high - low >= 2**bits - 1
            if np.isfinite([low, high]).all() and high > low and not full:
                return low, high
    return (0.0, 4095.0) if bits == 12 else None


def _first(tags: Mapping[int, Any], tag: int, default: Any = None) -> Any:
    """Return the value of a tag, the first one where there is one for each channel."""
    value = tags.get(tag, default)
    return (value[0] if value else default) if isinstance(value, tuple) else value


# --- colour profiles -----------------------------------------------------------------------------

_lock = threading.Lock()
_transforms: dict[tuple[bytes, str], ImageCms.ImageCmsTransform | None] = {}


def _to_srgb(image: Image.Image, profile: object) -> Image.Image:
    transform = None
    if image.mode == "LAB":
        transform = _transform(b"", "LAB")  # the mode says what its numbers mean
    elif isinstance(profile, bytes) and profile:
        transform = _transform(profile, image.mode)
    if transform is not None:
        if image.mode != transform.input_mode:
            image = image.convert(transform.input_mode)
        with suppress(ValueError, TypeError, OSError):
            return transform.apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what brings the colours of a profile to sRGB, or None where nothing need be done.

    The last few are kept: the images of a folder share their profiles, and one for inks takes
    longer to prepare than to apply.
    """
    key = hashlib.sha256(profile).digest(), mode
    with _lock:
        if key in _transforms:
            return _transforms[key]
    try:
        transform = _build(profile, mode)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, ImportError):
        transform = None  # a damaged profile must not cost the image
    with _lock:
        while len(_transforms) >= _MAX_TRANSFORMS:
            _transforms.pop(next(iter(_transforms)))
        _transforms[key] = transform
    return transform


def _build(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    if mode == "LAB":
        source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        takes: str | None = "LAB"
    else:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        takes = _PROFILE_MODES.get(source.profile.xcolor_space.strip())
    if takes is None or (mode != takes and (mode, takes) != ("L", "RGB")):
        return None  # a profile for other pixels than these
    transform = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        takes,
        "RGB",
        ImageCms.Intent.PERCEPTUAL,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    return transform if takes == "LAB" or _makes_a_difference(transform) else None


def _makes_a_difference(transform: ImageCms.ImageCmsTransform) -> bool:
    """Tell whether a profile is neither sRGB nor nonsense, by what it does to a few colours."""
    mode = transform.input_mode
    levels = np.arange(0, 256, 51 if mode == "RGB" else 85 if mode == "CMYK" else 5)
    grid = np.stack(np.meshgrid(*[levels] * Image.getmodebands(mode)), -1).astype(np.uint8)
    probe = Image.frombytes(mode, (grid.size // grid.shape[-1], 1), grid.tobytes())
    found = np.asarray(transform.apply(probe)).astype(int)
    naive = np.asarray(probe.convert("RGB")).astype(int)
    shades = found[0].sum(1)
    order = naive[0].sum(1)
    contrast = (shades[order.argmax()] - shades[order.argmin()]) / 3
    return bool(contrast >= _LEAST_CONTRAST and np.abs(found - naive).max() > _SAME_COLOURS)
