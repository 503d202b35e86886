"""Images from arrays and tensors. Ambiguous shapes and ranges are refused, not guessed."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from captioning.errors import ImageError

_CHANNELS = (1, 2, 3, 4)  # gray, gray with alpha, RGB, RGB with alpha
_BIT_DEPTHS = (8, 10, 12, 14, 16)
_ROUNDING = 1e-3  # above 1 or below 0, in floating point
_OVERSHOOT = 0.1  # of resampling with ringing


@runtime_checkable
class ArrayLike(Protocol):
    """A NumPy array, a tensor, or another object that NumPy can read."""

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """Return the values as a NumPy array."""
        ...


def image_from_array(source: ArrayLike) -> Image.Image:
    """Convert an array or a tensor to a Pillow image.

    The values are integers of 8 bits, integers of 16 bits, truth values, or floating-point numbers
    from 0 to 1. 16 bits become 8 as in :func:`captioning.images.pixels.to_rgb`: the full range is
    that of 8, 10, 12, 14 or 16 bits, whichever is the smallest that no value exceeds.

    Args:
        source: An array ``(height, width)`` or ``(height, width, channels)``, or a PyTorch tensor
            ``(height, width)`` or ``(channels, height, width)``, with 1 to 4 channels: gray, gray
            and alpha, RGB, RGB and alpha.

    Raises:
        ImageError: It has another type, shape or range; the message names the conversion.
    """
    is_tensor = hasattr(source, "detach")
    try:
        values = _values_of_tensor(source) if is_tensor else np.asarray(source)
    except Exception as error:  # every library raises its own exception classes
        raise ImageError(
            f"cannot read an image from {type(source).__name__}: {str(error).rstrip('.')}. Give a "
            "dense array in main memory."
        ) from error
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    kind = "a tensor" if is_tensor else "an array"
    found = f"cannot read an image from {kind} of shape {values.shape} and type {values.dtype}"
    if advice := _check_shape(values.shape, is_tensor):
        raise ImageError(f"{found}. {advice}")
    if is_tensor and values.ndim == 3:
        values = np.moveaxis(values, 0, 2)
    if values.shape[2:] == (1,):
        values = values[:, :, 0]
    if values.dtype.kind == "f":
        if advice := _check_range(values):
            raise ImageError(f"{found}: {advice}")
        values = (values.clip(0, 1) * 255).round().astype(np.uint8)
    elif values.dtype == bool:
        values = values * np.uint8(255)
    elif values.dtype == np.uint16:
        # Gray keeps 16 bits, because Pillow has a mode for them.
        values = values if values.ndim == 2 else _reduce_to_8_bits(values)
    elif values.dtype != np.uint8:
        raise ImageError(f"{found}. {_advise_on_type(values)}")
    return Image.fromarray(np.ascontiguousarray(values))


def _values_of_tensor(tensor: Any) -> np.ndarray:
    tensor = tensor.detach().cpu()
    if tensor.dtype.is_floating_point:
        tensor = tensor.float()  # NumPy has no bfloat16
    values: np.ndarray = tensor.numpy()
    return values


def _check_shape(shape: tuple[int, ...], is_tensor: bool) -> str:
    """Return what to do about a shape that is not that of an image; empty if it is one."""
    if len(shape) == 4:
        return "It is a batch: pass it to captioner(...), which captions a list of images."
    if len(shape) not in (2, 3):
        return "Give two or three dimensions; the content of a file as bytes: array.tobytes()."
    if 0 in shape:
        return "It has no pixels."
    if len(shape) == 2 or shape[0 if is_tensor else 2] in _CHANNELS:
        return ""
    if is_tensor:
        hint = " Put the channels first: tensor.permute(2, 0, 1)." if shape[2] in _CHANNELS else ""
        return f"Give (channels, height, width) with 1 to 4 channels.{hint}"
    hint = " Put the channels last: array.transpose(1, 2, 0)." if shape[0] in _CHANNELS else ""
    return f"Give (height, width, channels) with 1 to 4 channels.{hint}"


def _check_range(values: np.ndarray) -> str:
    """Return what to do about numbers that are not from 0 to 1; empty if they are."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        return "it has values that are NaN or infinite. Replace them: numpy.nan_to_num(array)."
    if low >= -_ROUNDING and high <= 1 + _ROUNDING:
        return ""
    found = f"its values are {low:.4g} to {high:.4g}, not 0 to 1."
    if low < -_OVERSHOOT:
        return f"{found} If they are normalized, undo it: array * std + mean."
    if high <= 1 + _OVERSHOOT:
        return f"{found} Clip them to 0 and 1."
    largest = next((str(level) for level in (255, 65535) if high <= level), "their maximum")
    return f"{found} Divide them by {largest}."


def _advise_on_type(values: np.ndarray) -> str:
    expected = "Give uint8, uint16, bool, or floating point from 0 to 1"
    if values.dtype.kind not in "iu":
        return f"{expected}."
    low, high = int(values.min()), int(values.max())
    if low >= 0 and high <= 255:
        return f"{expected}. Its values are {low} to {high}: convert it to uint8."
    return f"{expected}. Its values are {low} to {high}: scale them to 0 to 255 as uint8."


def _reduce_to_8_bits(values: np.ndarray) -> np.ndarray:
    """Return the upper 8 bits of colors, as Pillow does."""
    highest = int(values.max())
    bits = next(bits for bits in _BIT_DEPTHS if highest < 1 << bits)
    return (values >> (bits - _BIT_DEPTHS[0])).astype(np.uint8)
