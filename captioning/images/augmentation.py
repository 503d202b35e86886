"""Views of an image that training may show in its place."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2

_SCALE = (0.6, 1.0)  # the least keeps most of what captions speak of
_RATIO = (0.8, 1.25)
_STRENGTH = 0.2  # of brightness, contrast and saturation; captions name colours, so hues stay
_WHOLE = 1 / 3  # of the images, where each is drawn anew
_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601
CHANCES = 8
"""Numbers that :func:`drawn_view` takes for each image."""


def view_of(
    pixels: UInt8[Tensor, "B 3 S S"], view: int, images: Sequence[int]
) -> UInt8[Tensor, "B 3 S S"]:
    """Return one view of each image.

    View 0 is the image itself; from 2 on, each is a part of 60 to 100 % of it, drawn at random,
    at the size of the whole and in somewhat other light. Those with odd numbers are mirrored.

    Args:
        pixels: The images.
        view: Number of the view.
        images: A number for each image; with that of the view it seeds what is drawn, so that
            the same is drawn again, to a level of grey where another device cuts it.
    """
    if view >= 2:
        pixels = torch.stack(
            [_cropped(one, view, number) for one, number in zip(pixels, images, strict=True)]
        )
    return pixels.flip(3) if view % 2 else pixels


def _cropped(pixels: UInt8[Tensor, "3 S S"], view: int, image: int) -> UInt8[Tensor, "3 S S"]:
    change = v2.Compose(
        [
            v2.RandomResizedCrop(
                list(pixels.shape[1:]), scale=_SCALE, ratio=_RATIO, antialias=True
            ),
            v2.ColorJitter(brightness=_STRENGTH, contrast=_STRENGTH, saturation=_STRENGTH),
        ]
    )
    with torch.random.fork_rng(devices=[]):  # the transforms know the global generator alone
        torch.manual_seed(image * 1_000_003 + view)
        return change(pixels)


def drawn_view(
    pixels: UInt8[Tensor, "B 3 S S"],
    chance: Float[Tensor, "B CHANCES"],
    *,
    mirrored: Bool[Tensor, " B"],
) -> UInt8[Tensor, "B 3 S S"]:
    """Return each image as training shows it this once: all at a time, and never alike.

    A third of them stay whole and in their own light. Of each other a part of 60 to 100 % is drawn
    at random, and shown at the size of the whole and in somewhat other light.

    Args:
        pixels: The images, on any device.
        chance: Numbers from 0 to 1, on the CPU.
        mirrored: Which images are shown mirrored, on the CPU.
    """
    device = pixels.device
    shown = torch.where(mirrored.to(device)[:, None, None, None], pixels.flip(3), pixels)
    cut = (chance[:, 7] >= _WHOLE).to(device)
    with torch.autocast(device.type, enabled=False):  # in 16 bits a place is a quarter pixel off
        windows = _windows(chance[:, :4]).to(device)
        places = functional.affine_grid(windows, list(pixels.shape), align_corners=False)
        parts = functional.grid_sample(
            shown.float(), places, padding_mode="border", align_corners=False
        )
        light = 1 + _STRENGTH * (2 * chance[:, 4:7] - 1)
        parts = _lit(parts, light.to(device)).round().clamp(0, 255).to(torch.uint8)
    return torch.where(cut[:, None, None, None], parts, shown)


def _windows(chance: Float[Tensor, "B 4"]) -> Float[Tensor, "B 2 3"]:
    """Return which part each image shows, as a map of coordinates from -1 to 1."""
    least, most = _SCALE
    area = least + (most - least) * chance[:, 0]
    narrow, wide = (math.log(ratio) for ratio in _RATIO)
    ratio = torch.exp(narrow + (wide - narrow) * chance[:, 1])
    size = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1).clamp(max=1.0)
    middle = (2 * chance[:, 2:4] - 1) * (1 - size)
    return torch.cat([torch.diag_embed(size), middle[:, :, None]], 2)


def _lit(pixels: Float[Tensor, "B 3 S S"], light: Float[Tensor, "B 3"]) -> Tensor:
    """Return images with other brightness, contrast and saturation (1 for the same)."""
    bright, contrast, saturation = light[:, :, None, None, None].unbind(1)
    weights = torch.tensor(_GREY, device=pixels.device).view(3, 1, 1)
    pixels = (pixels * bright).clamp(0, 255)
    mean = (pixels * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    pixels = torch.lerp(mean.expand_as(pixels), pixels, contrast).clamp(0, 255)
    grey = (pixels * weights).sum(1, keepdim=True)
    return torch.lerp(grey.expand_as(pixels), pixels, saturation)
