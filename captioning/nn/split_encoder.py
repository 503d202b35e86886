"""A CNN in two parts: a front that stays frozen, whose output can be cached, and a tail to train.

Running a CNN over all images in every epoch is most of what fine-tuning costs. The stages that
stay frozen give the same map each time that they see the same pixels, so it can be computed once;
an epoch then pays for the last stages alone.
"""

import math

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn

from captioning.errors import ConfigError
from captioning.nn.encoder import Encoder
from captioning.nn.features import Features

_NOT_FEATURES = ("global_pool", "classifier", "fc", "head", "head_drop")


def as_map(rows: Shaped[Tensor, "B Q C"]) -> Shaped[Tensor, "B C S S"]:
    """Return a square map that is given row by row, position by position.

    That is what channels-last memory holds: nothing is copied.
    """
    side = math.isqrt(rows.shape[1])
    return rows.unflatten(1, (side, side)).permute(0, 3, 1, 2)


class EncoderFront(nn.Module):
    """The frozen stages of an encoder; it looks like an encoder whose grid is their map.

    Args:
        encoder: Whose pixels it takes.
        parts: Its first modules, in order.
    """

    def __init__(self, encoder: Encoder, parts: list[nn.Module]) -> None:
        super().__init__()
        self.config = encoder.config
        self.preprocessing = encoder.preprocessing
        self.parts = nn.Sequential(*parts)
        with torch.inference_mode():
            size = self.preprocessing.size
            device = next(encoder.parameters()).device
            grid = self.forward(
                torch.zeros(1, 3, size, size, dtype=torch.uint8, device=device)
            ).grid
        assert grid is not None
        self.positions: int = grid.shape[1]
        """P, positions of the map; it is square."""
        self.feature_size: int = grid.shape[2]
        """C, channels of the map."""

    def train(self, mode: bool = True) -> "EncoderFront":
        """Stay in evaluation mode whatever ``mode`` says."""
        return super().train(False)

    def forward(self, pixels: UInt8[Tensor, "B 3 S S"]) -> Features:
        """Look at a batch of images as :attr:`preprocessing` made them."""
        normal = self.preprocessing.normalise(pixels).to(memory_format=torch.channels_last)
        grid = self.parts(normal).flatten(2).transpose(1, 2)
        return Features(grid.mean(1), grid)


class EncoderTail(nn.Module):
    """The last stages of an encoder, from the front's map to the grid.

    BatchNorm statistics stay ImageNet's, as in :class:`Encoder`; its scales and shifts are trained.
    """

    def __init__(self, parts: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.Sequential(*parts)

    def train(self, mode: bool = True) -> "EncoderTail":
        """Stay in evaluation mode whatever ``mode`` says."""
        return super().train(False)

    def forward(self, rows: Float[Tensor, "B Q C"]) -> Float[Tensor, "B P D"]:
        """Return the grid that the whole encoder would give.

        Args:
            rows: The front's map, row by row.
        """
        return self.parts(as_map(rows)).flatten(2).transpose(1, 2)


def cut(encoder: Encoder, stages: int) -> tuple[EncoderFront, EncoderTail]:
    """Cut an encoder before its last ``stages`` stages; the parts share its weights.

    Args:
        encoder: One from timm whose modules run one after the other, as those of most CNNs do.
        stages: How many stages (of an EfficientNet's seven or a ResNet's four) are trained, with
            all that comes after them.

    Raises:
        ConfigError: The network has too few stages, or is no chain of modules.
    """
    if encoder.config.family != "timm":
        raise ConfigError(
            f"fine_tune is {stages}, but only networks of timm can be cut, and the encoder is "
            f"{encoder.config.name}. timm has most networks of torchvision: timm:resnet101."
        )
    parts = _chain(encoder)
    starts = [
        place for place, part in enumerate(parts) if place and isinstance(part, nn.Sequential)
    ]
    if not 1 <= stages <= len(starts):
        raise ConfigError(
            f"fine_tune is {stages}; {encoder.config.name} has {len(starts)} stages that could be "
            "trained. Give a number from 1 to that, or 0 to train none."
        )
    place = starts[-stages]
    tail = EncoderTail(parts[place:])
    try:
        front = EncoderFront(encoder, parts[:place])
        same = _is_chain(encoder, front, tail)
    except (RuntimeError, TypeError, ValueError, NotImplementedError):
        same = False
    if not same:
        raise ConfigError(
            f"{encoder.config.name} is no chain of modules, so its last stages cannot be trained "
            "apart. Choose another encoder, such as timm:tf_efficientnet_lite0 or timm:resnet50, "
            "or train none of it (fine_tune 0)."
        )
    return front.eval(), tail.eval()


def _chain(encoder: Encoder) -> list[nn.Module]:
    """Return the network's modules in the order in which they run, long sequences taken apart."""
    parts: list[nn.Module] = []
    for name, child in encoder.network.named_children():
        if name in _NOT_FEATURES:
            break
        inner = list(child.children()) if isinstance(child, nn.Sequential) else []
        nested = bool(inner) and all(isinstance(each, nn.Sequential) for each in inner)
        parts += inner if nested else [child]
    return parts


@torch.inference_mode()
def _is_chain(encoder: Encoder, front: EncoderFront, tail: EncoderTail) -> bool:
    """Return whether the parts one after the other give what the whole network gives."""
    size = encoder.preprocessing.size
    pixels = torch.arange(3 * size * size, device=next(encoder.parameters()).device)
    pixels = (pixels % 251).to(torch.uint8).view(1, 3, size, size)
    whole, parts = encoder(pixels).grid, tail(front(pixels).grid)
    assert whole is not None
    return whole.shape == parts.shape and torch.allclose(whole, parts, atol=1e-3, rtol=1e-3)
