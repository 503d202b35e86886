"""Views of a picture that training may show in its place."""

from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.transforms import v2

_SCALE = (0.6, 1.0)  # the least keeps most of what captions speak of
_RATIO = (0.8, 1.25)
_STRENGTH = 0.2  # of brightness, contrast and saturation; captions name colours, so hues stay


def view_of(
    pixels: UInt8[Tensor, "B 3 S S"], view: int, pictures: Sequence[int]
) -> UInt8[Tensor, "B 3 S S"]:
    """Return one view of each picture.

    View 0 is the picture itself; from 2 on, each is a part of 60 to 100 % of it, drawn at random,
    at the size of the whole and in somewhat other light. Those with odd numbers are mirrored.

    Args:
        pixels: The pictures.
        view: Number of the view.
        pictures: A number for each picture; with that of the view it seeds what is drawn, so that
            the same is drawn again.
    """
    if view >= 2:
        pixels = torch.stack(
            [_cropped(one, view, number) for one, number in zip(pixels, pictures, strict=True)]
        )
    return pixels.flip(3) if view % 2 else pixels


def _cropped(pixels: UInt8[Tensor, "3 S S"], view: int, picture: int) -> UInt8[Tensor, "3 S S"]:
    change = v2.Compose(
        [
            v2.RandomResizedCrop(
                list(pixels.shape[1:]), scale=_SCALE, ratio=_RATIO, antialias=True
            ),
            v2.ColorJitter(brightness=_STRENGTH, contrast=_STRENGTH, saturation=_STRENGTH),
        ]
    )
    with torch.random.fork_rng(devices=[]):  # the transforms know the global generator alone
        torch.manual_seed(picture * 1_000_003 + view)
        return change(pixels)
