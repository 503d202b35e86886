"""Images looked at anew each time, in the place of cached features."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from captioning.features.cache import CacheRows
from captioning.images.augmentation import CHANCES, drawn_view
from captioning.nn.encoder import Encoder
from captioning.nn.split_encoder import EncoderFront, as_map


class AugmentedImages:
    """What a CNN's frozen stages make of images, computed each time that it is read.

    It is read as a cache of features is, but no view is twice the same
    (:func:`captioning.images.augmentation.drawn_view`). Validation reads the whole image.

    Args:
        pixels: The images, as :class:`captioning.features.cache.PixelCache` keeps them.
        encoder: A frozen encoder or its front, on the device where it is to work.
    """

    def __init__(self, pixels: CacheRows, encoder: Encoder | EncoderFront) -> None:
        self.pixels = pixels
        self.encoder = encoder

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def views(self) -> int:
        """2: an image and its mirror image, each drawn anew."""
        return 2

    @property
    def unreadable(self) -> Mapping[int, str]:
        """What was wrong with the images that could not be read, by their row."""
        return self.pixels.unreadable

    @property
    def readable(self) -> list[int]:
        """Rows of the images that could be read."""
        return self.pixels.readable

    def read(
        self, images: Int[Tensor, " B"], views: Int[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B P D"]:
        """Return the grid of each image, on the encoder's device.

        Args:
            images: Places of the images.
            views: Where it is given, a view of each is drawn, mirrored where the number is odd;
                otherwise the images are looked at as they are.
        """
        rows = self.pixels.read(images).to(next(self.encoder.parameters()).device)
        pixels = as_map(rows)
        if views is not None:
            chance = torch.rand(len(views), CHANCES)  # torch's own, which a saved run goes on with
            pixels = drawn_view(pixels, chance, mirrored=views % 2 == 1)
        with torch.no_grad():
            grid = self.encoder(pixels).grid
        assert grid is not None
        return grid.float()
