"""From an image of any size to the pixels an encoder was trained on."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from captioning.errors import ConfigError
from captioning.images.resizing import INTERPOLATION, resized


@dataclass(frozen=True)
class Preprocessing:
    """How images become pixels: one object for training and for use, stored with the model.

    The work is in two halves. :meth:`pixels` resizes one image to small integers, which worker
    processes can hand over cheaply; :meth:`normalise` scales a batch of them on the device.
    """

    size: int = 224
    """Height and width of what the encoder sees, in pixels."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of each colour channel, on a scale of 0 to 1."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Deviation of each colour channel, on a scale of 0 to 1."""
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    """Filter used for resizing; always antialiased."""
    fit: Literal["squeeze", "crop"] = "squeeze"
    """``squeeze`` keeps the whole image and changes its aspect ratio; ``crop`` takes the
    centre square."""

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 4096:
            raise ConfigError(f"size is {self.size}; it lies between 1 and 4096 pixels.")
        if self.interpolation not in INTERPOLATION:
            raise ConfigError(
                f"interpolation is {self.interpolation!r}; it is one of {sorted(INTERPOLATION)}."
            )
        if self.fit not in ("squeeze", "crop"):
            raise ConfigError(f"fit is {self.fit!r}; it is 'squeeze' or 'crop'.")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ConfigError("mean and std have three numbers each, and std is positive.")
        # Beyond these, and where one is no number, 32-bit pixels are infinite or no numbers.
        if not (
            all(-1e4 <= mean <= 1e4 for mean in self.mean)
            and all(1e-6 <= std <= 1e6 for std in self.std)
        ):
            raise ConfigError(
                f"mean is {self.mean} and std {self.std}; on a scale of 0 to 1, a mean lies "
                "between -10000 and 10000 and a std between 0.000001 and 1000000."
            )

    def pixels(self, image: Image.Image) -> UInt8[Tensor, "3 S S"]:
        """Resize one RGB image to ``(3, size, size)``, values 0 to 255."""
        values = resized(image, self.size, interpolation=self.interpolation, fit=self.fit)
        return torch.from_numpy(values)

    def normalise(self, pixels: UInt8[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
        """Scale pixels to ``(x / 255 - mean) / std``, on the device where they lie."""
        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(3, 1, 1)
        return (pixels / 255 - mean) / std
