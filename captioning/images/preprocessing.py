"""Preprocessing of images for an encoder: resizing and normalization."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from captioning.errors import ConfigError
from captioning.images.resizing import INTERPOLATION, resize_image


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing shared by training and inference; it is stored with the model.

    It has two steps. :meth:`pixels` resizes one image to 8-bit integers, which are cheap to send
    between processes. :meth:`normalize` scales a batch on the device.
    """

    size: int = 224
    """Height and width of the encoder's input in pixels."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of each color channel, on a scale of 0 to 1."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of each color channel, on a scale of 0 to 1."""
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    """Resampling filter, with antialiasing."""
    fit: Literal["squeeze", "crop"] = "squeeze"
    """``squeeze`` keeps the whole image and changes its aspect ratio; ``crop`` takes the
    center square."""

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 4096:
            raise ConfigError(f"size is {self.size}; it must be from 1 to 4096 pixels.")
        if self.interpolation not in INTERPOLATION:
            raise ConfigError(
                f"interpolation is {self.interpolation!r}; choose one of {sorted(INTERPOLATION)}."
            )
        if self.fit not in ("squeeze", "crop"):
            raise ConfigError(f"fit is {self.fit!r}; choose 'squeeze' or 'crop'.")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ConfigError("mean and std must have three numbers each, and std must be above 0.")
        # Outside these bounds, or with NaN, normalized 32-bit pixels are infinite or NaN.
        if not (
            all(-1e4 <= mean <= 1e4 for mean in self.mean)
            and all(1e-6 <= std <= 1e6 for std in self.std)
        ):
            raise ConfigError(
                f"mean is {self.mean} and std is {self.std}; on a scale of 0 to 1, mean must be "
                "from -10000 to 10000 and std from 0.000001 to 1000000."
            )

    def pixels(self, image: Image.Image) -> UInt8[Tensor, "3 S S"]:
        """Resize one RGB image to ``(3, size, size)``, values 0 to 255."""
        values = resize_image(image, self.size, interpolation=self.interpolation, fit=self.fit)
        return torch.from_numpy(values)

    def normalize(self, pixels: UInt8[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
        """Scale pixels to ``(x / 255 - mean) / std`` on their device."""
        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(3, 1, 1)
        return (pixels.to(mean.dtype) / 255 - mean) / std
