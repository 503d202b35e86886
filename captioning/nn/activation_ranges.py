"""Ranges of an encoder's activations, the scales of its 8-bit integers (int8)."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from captioning.errors import ConfigError
from captioning.nn.encoder import Encoder

ActivationRanges = Mapping[str, Float[Tensor, "2"]]
"""Smallest and largest input of each convolution, by its name in the encoder."""


@torch.inference_mode()
def measure_ranges(
    encoder: Encoder, batches: Iterable[UInt8[Tensor, "B 3 S S"]]
) -> dict[str, Tensor]:
    """Return the ranges of the activations over some images.

    Args:
        encoder: The encoder, in float32.
        batches: Pixels of the images, at least one batch.

    Raises:
        ConfigError: The encoder has no convolutions.
    """
    ranges: dict[str, Tensor] = {}

    def observe(name: str, values: Float[Tensor, "B C H W"]) -> None:
        found = torch.stack(values.aminmax())
        known = ranges.get(name, found)
        ranges[name] = torch.stack(
            [torch.minimum(known[0], found[0]), torch.maximum(known[1], found[1])]
        )

    def hook(name: str) -> Any:
        return lambda module, inputs: observe(name, inputs[0])

    convolutions = _convolutions(encoder)
    if not convolutions:
        raise ConfigError(
            f"the encoder {encoder.config.name} has no convolutions, so int8 has no effect. Use "
            "bfloat16."
        )
    hooks = [conv.register_forward_pre_hook(hook(name)) for name, conv in convolutions.items()]
    try:
        for pixels in batches:
            encoder(pixels)
    finally:
        for handle in hooks:
            handle.remove()
    return {name: values.cpu() for name, values in ranges.items()}


def check_ranges(encoder: Encoder, ranges: Mapping[str, Tensor]) -> None:
    """Check that ranges belong to an encoder.

    Raises:
        ConfigError: A convolution is unknown, or a range is not two increasing numbers.
    """
    convolutions = _convolutions(encoder)
    for name, values in ranges.items():
        if name not in convolutions:
            raise ConfigError(f"the encoder has no convolution {name[:200]!r}")
        if values.shape != (2,) or not values.is_floating_point():
            found = f"shape {tuple(values.shape)} and dtype {values.dtype}"
            raise ConfigError(f"{name} has {found}, expected (2,) and floating point")
        if values[0] > values[1]:
            raise ConfigError(f"{name} has a minimum above its maximum")


def _convolutions(encoder: Encoder) -> dict[str, nn.Conv2d]:
    return {name: part for name, part in encoder.named_modules() if isinstance(part, nn.Conv2d)}
