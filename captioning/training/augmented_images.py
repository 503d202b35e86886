"""Images that are augmented and encoded again for every step, instead of cached features."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from captioning.features.cache import CacheRows
from captioning.images.augmentation import RANDOM_VALUES, augment_batch
from captioning.nn.encoder import Encoder
from captioning.nn.shared_draws import draw_rows
from captioning.nn.split_encoder import EncoderFront, as_map


class AugmentedImages(CacheRows):
    """Features that a frozen encoder computes on every read, from randomly augmented pixels.

    The interface is that of a feature cache. Reads with ``views`` draw crops and color jitter
    (:func:`captioning.images.augmentation.augment_batch`); reads without ``views``, as in
    validation, encode the whole image.

    Args:
        pixels: The images, such as :class:`captioning.features.cache.StoredRows`.
        encoder: A frozen encoder, or its frozen first stages.
    """

    views = 2  # not flipped and flipped

    def __init__(self, pixels: CacheRows, encoder: Encoder | EncoderFront) -> None:
        self.pixels = pixels
        self.encoder = encoder
        self.unreadable = pixels.unreadable

    def __len__(self) -> int:
        return len(self.pixels)

    def read(
        self, images: Int[Tensor, " B"], views: Int[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B P D"]:
        """Return the feature grids of images, on the device of the encoder.

        Args:
            images: Rows of the images.
            views: View of each image; odd views are flipped. None reads the images without
                augmentation.
        """
        rows = self.pixels.read(images).to(next(self.encoder.parameters()).device)
        pixels = as_map(rows)
        if views is not None:
            # torch's global generator: its state is saved with the run.
            random_values = draw_rows(
                "images", len(views), lambda count: torch.rand(count, RANDOM_VALUES)
            )
            pixels = augment_batch(pixels, random_values, hflip=views % 2 == 1)
        with torch.no_grad():
            grid = self.encoder(pixels).grid
        assert grid is not None
        return grid.float()
