"""Image augmentation: fixed views for cached features, and online augmentation of batches."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2

_SCALE = (0.6, 1.0)  # share of the area; smaller crops lose what the captions describe
_RATIO = (0.8, 1.25)
_STRENGTH = 0.2  # of brightness, contrast and saturation; not of hue, because captions name colors
_WHOLE_SHARE = 1 / 3  # of the images of a batch, which keep their whole area and colors
_GRAY = (0.299, 0.587, 0.114)  # ITU-R BT.601
RANDOM_VALUES = 8
"""Random numbers that :func:`augment_batch` takes for each image."""


def fixed_view(
    pixels: UInt8[Tensor, "B 3 S S"], view: int, image_numbers: Sequence[int]
) -> UInt8[Tensor, "B 3 S S"]:
    """Return one of the fixed views of each image.

    View 0 is the image itself. Views from 2 on are random crops of 60 to 100 % of the area, resized
    to the full size, with color jitter. Odd views are flipped horizontally.

    Args:
        pixels: The images.
        view: Number of the view.
        image_numbers: A number for each image. Together with ``view`` it seeds the crop, so that
            a view is reproducible (up to one gray level between devices).
    """
    if view >= 2:
        pixels = torch.stack(
            [_random_crop(one, view, n) for one, n in zip(pixels, image_numbers, strict=True)]
        )
    return pixels.flip(3) if view % 2 else pixels


def _random_crop(pixels: UInt8[Tensor, "3 S S"], view: int, number: int) -> UInt8[Tensor, "3 S S"]:
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(
                list(pixels.shape[1:]), scale=_SCALE, ratio=_RATIO, antialias=True
            ),
            v2.ColorJitter(brightness=_STRENGTH, contrast=_STRENGTH, saturation=_STRENGTH),
        ]
    )
    with torch.random.fork_rng(devices=[]):  # the transforms accept no generator of their own
        torch.manual_seed(number * 1_000_003 + view)
        return transform(pixels)


def augment_batch(
    pixels: UInt8[Tensor, "B 3 S S"],
    random_values: Float[Tensor, "B RANDOM_VALUES"],
    *,
    hflip: Bool[Tensor, " B"],
) -> UInt8[Tensor, "B 3 S S"]:
    """Augment a batch with random crops and color jitter.

    A third of the images keep their area and colors. Of each other image, a random crop of 60 to
    100 % of the area is resized to the full size, with color jitter.

    Args:
        pixels: The images, on any device.
        random_values: Numbers from 0 to 1, on the CPU.
        hflip: Images to flip horizontally, on the CPU.
    """
    device = pixels.device
    flipped = torch.where(hflip.to(device)[:, None, None, None], pixels.flip(3), pixels)
    cropped = (random_values[:, 7] >= _WHOLE_SHARE).to(device)
    # 16-bit coordinates would be off by a quarter of a pixel.
    with torch.autocast(device.type, enabled=False):
        windows = _crop_windows(random_values[:, :4]).to(device)
        grid = functional.affine_grid(windows, list(pixels.shape), align_corners=False)
        crops = functional.grid_sample(
            flipped.float(), grid, padding_mode="border", align_corners=False
        )
        factors = 1 + _STRENGTH * (2 * random_values[:, 4:7] - 1)
        crops = _jitter_colors(crops, factors.to(device)).round().clamp(0, 255).to(torch.uint8)
    return torch.where(cropped[:, None, None, None], crops, flipped)


def _crop_windows(random_values: Float[Tensor, "B 4"]) -> Float[Tensor, "B 2 3"]:
    """Return an affine map per image from output to input coordinates, both from -1 to 1."""
    smallest, largest = _SCALE
    area = smallest + (largest - smallest) * random_values[:, 0]
    narrow, wide = (math.log(ratio) for ratio in _RATIO)
    ratio = torch.exp(narrow + (wide - narrow) * random_values[:, 1])
    size = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1).clamp(max=1.0)
    center = (2 * random_values[:, 2:4] - 1) * (1 - size)
    return torch.cat([torch.diag_embed(size), center[:, :, None]], 2)


def _jitter_colors(pixels: Float[Tensor, "B 3 S S"], factors: Float[Tensor, "B 3"]) -> Tensor:
    """Scale brightness, contrast and saturation; a factor of 1 changes nothing."""
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    weights = torch.tensor(_GRAY, device=pixels.device).view(3, 1, 1)
    pixels = (pixels * brightness).clamp(0, 255)
    mean = (pixels * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    pixels = torch.lerp(mean.expand_as(pixels), pixels, contrast).clamp(0, 255)
    gray = (pixels * weights).sum(1, keepdim=True)
    return torch.lerp(gray.expand_as(pixels), pixels, saturation)
