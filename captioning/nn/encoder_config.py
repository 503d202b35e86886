"""Configuration of an encoder. This module does not import torch."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from captioning.errors import ConfigError

Precision = Literal["float32", "bfloat16"]
"""Precision of matrix products."""
EXTERNAL = "features"
"""Name of the encoder of a model that reads external features."""


@dataclass(frozen=True)
class EncoderConfig:
    """Configuration of the encoder."""

    name: str = "timm:tf_efficientnet_lite0"
    """Network: ``timm:<model>`` or ``torchvision:<classification model>``."""
    weights: str | None = "default"
    """Source of the weights. ``package``: ImageNet weights of an installed package. ``hub``: a
    download of them. ``default``: ``package`` if there is such a package, otherwise ``hub``.
    ``None``: random weights. A path: a file with weights of your own (.pt, .pth, .safetensors); a
    classifier in it is ignored."""
    image_size: int | None = None
    """Input height and width in pixels, 1 to 4096 (default: the size used in pretraining)."""
    fit: Literal["squeeze", "crop"] = "squeeze"
    """Conversion of an image to a square. ``squeeze``: change the aspect ratio; ``crop``: cut out
    the center."""

    def __post_init__(self) -> None:
        if self.name == EXTERNAL:
            return
        if self.family not in ("timm", "torchvision") or not self.model:
            raise ConfigError(
                f"the encoder {self.name[:100]!r} does not name its library. "
                "Use timm:<model> or torchvision:<model>, for example "
                "timm:tf_efficientnet_lite0 or torchvision:resnet50."
            )
        if not re.fullmatch(r"\w[\w.-]{0,99}", self.model, re.ASCII):
            # timm would load local-dir:/folder or hf-hub:user/model from that place.
            raise ConfigError(
                f"the encoder {self.name[:100]!r} is not the name of a network. After "
                f"{self.family}: use letters, digits, _, . and - only, as in timm:resnet18."
            )
        if self.image_size is not None and not 1 <= self.image_size <= 4096:
            raise ConfigError(f"image_size is {self.image_size}. Use 1 to 4096 pixels.")
        if self.fit not in ("squeeze", "crop"):
            raise ConfigError(f"fit is {self.fit!r}. Use 'squeeze' or 'crop'.")

    @property
    def weights_file(self) -> Path | None:
        """File of the weights; None if they are not read from a file."""
        if self.weights is None or self.weights in ("default", "hub", "package"):
            return None
        return Path(self.weights)

    @property
    def family(self) -> str:
        """Library that defines the network."""
        return self.name.partition(":")[0]

    @property
    def model(self) -> str:
        """Name of the network in its library."""
        return self.name.partition(":")[2]
