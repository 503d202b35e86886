"""Split of a CNN into a frozen front, whose output can be cached, and a trainable tail.

Most of the cost of fine-tuning is running the CNN in every epoch. The frozen stages give the same
feature map in each epoch, so it is computed once, and an epoch runs only the last stages.
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
    """Return a square feature map from its rows of positions.

    The result is a view in channels-last order; nothing is copied.
    """
    side = math.isqrt(rows.shape[1])
    return rows.unflatten(1, (side, side)).permute(0, 3, 1, 2)


class EncoderFront(nn.Module):
    """Frozen first stages of an encoder, with the interface of an encoder.

    Its grid is the feature map of the last frozen stage.

    Args:
        encoder: The whole encoder, which defines the preprocessing.
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
        """Number of positions of the square feature map."""
        self.feature_size: int = grid.shape[2]
        """C, number of channels of the feature map."""

    def train(self, mode: bool = True) -> "EncoderFront":
        """Keep evaluation mode; ``mode`` has no effect."""
        return super().train(False)

    def forward(self, pixels: UInt8[Tensor, "B 3 S S"]) -> Features:
        """Encode a batch of images that :attr:`preprocessing` prepared."""
        normal = self.preprocessing.normalize(pixels).to(memory_format=torch.channels_last)
        grid = self.parts(normal).flatten(2).transpose(1, 2)
        return Features(grid.mean(1), grid)


class EncoderTail(nn.Module):
    """Trainable last stages of an encoder, from the front's feature map to the grid.

    BatchNorm keeps ImageNet's statistics, as in :class:`Encoder`; its scales and shifts are
    trained.
    """

    def __init__(self, parts: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.Sequential(*parts)

    def train(self, mode: bool = True) -> "EncoderTail":
        """Keep evaluation mode; ``mode`` has no effect."""
        return super().train(False)

    def forward(self, rows: Float[Tensor, "B Q C"]) -> Float[Tensor, "B P D"]:
        """Return the grid of the whole encoder.

        Args:
            rows: Feature map of the front, row by row.
        """
        return self.parts(as_map(rows)).flatten(2).transpose(1, 2)


def split_encoder(encoder: Encoder, stages: int) -> tuple[EncoderFront, EncoderTail]:
    """Split an encoder before its last ``stages`` stages; the parts share its weights.

    Args:
        encoder: A timm encoder whose modules run one after the other, as in most CNNs.
        stages: Number of stages in the tail. An EfficientNet has seven, a ResNet four. Modules
            after the last stage belong to the tail too.

    Raises:
        ConfigError: The network has too few stages or is not a chain of modules.
    """
    if encoder.config.family != "timm":
        raise ConfigError(
            f"cannot train stages of {encoder.config.name}: only timm networks can be split. Use "
            "the same network from timm, such as timm:resnet101."
        )
    parts = _list_modules(encoder)
    starts = [
        index for index, part in enumerate(parts) if index and isinstance(part, nn.Sequential)
    ]
    if not 1 <= stages <= len(starts):
        raise ConfigError(
            f"cannot train {stages} stages of {encoder.config.name}: it has {len(starts)} stages. "
            f"Use 1 to {len(starts)}, or 0 to train none."
        )
    start = starts[-stages]
    tail = EncoderTail(parts[start:])
    try:
        front = EncoderFront(encoder, parts[:start])
        is_chain = _gives_same_grid(encoder, front, tail)
    except (RuntimeError, TypeError, ValueError, NotImplementedError):
        is_chain = False
    if not is_chain:
        raise ConfigError(
            f"cannot split {encoder.config.name}: it is not a chain of modules. Use another "
            "encoder, such as timm:tf_efficientnet_lite0 or timm:resnet50, or train 0 stages."
        )
    return front.eval(), tail.eval()


def _list_modules(encoder: Encoder) -> list[nn.Module]:
    """Return the network's modules in running order, with sequences of stages unpacked."""
    parts: list[nn.Module] = []
    for name, child in encoder.network.named_children():
        if name in _NOT_FEATURES:
            break
        inner = list(child.children()) if isinstance(child, nn.Sequential) else []
        nested = bool(inner) and all(isinstance(part, nn.Sequential) for part in inner)
        parts += inner if nested else [child]
    return parts


@torch.inference_mode()
def _gives_same_grid(encoder: Encoder, front: EncoderFront, tail: EncoderTail) -> bool:
    """Return whether front and tail together compute the grid of the whole network."""
    size = encoder.preprocessing.size
    pixels = torch.arange(3 * size * size, device=next(encoder.parameters()).device)
    pixels = (pixels % 251).to(torch.uint8).view(1, 3, size, size)
    whole, parts = encoder(pixels).grid, tail(front(pixels).grid)
    assert whole is not None
    return whole.shape == parts.shape and torch.allclose(whole, parts, atol=1e-3, rtol=1e-3)
