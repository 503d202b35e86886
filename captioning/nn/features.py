"""Image features: output of an encoder and input of a decoder."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Features:
    """Features of a batch of images.

    Attributes:
        vector: v, one vector per image.
        grid: One vector per position of the last feature map, row by row; None if only vectors
            are kept.
    """

    vector: Float[Tensor, "B D"]
    grid: Float[Tensor, "B P D"] | None = None

    def __len__(self) -> int:
        return len(self.vector)

    def select(self, rows: Int[Tensor, " M"]) -> "Features":
        """Return the features of ``rows``, which may repeat."""
        grid = None if self.grid is None else self.grid.index_select(0, rows)
        return Features(self.vector.index_select(0, rows), grid)

    def masked(self, mask: Float[Tensor, "B D"]) -> "Features":
        """Return v and every grid position, multiplied by the image's row of ``mask``."""
        grid = None if self.grid is None else self.grid * mask.unsqueeze(1)
        return Features(self.vector * mask, grid)

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> "Features":
        """Return the features on ``device``, as float32 unless ``dtype`` says otherwise."""
        grid = None if self.grid is None else self.grid.to(device, dtype)
        return Features(self.vector.to(device, dtype), grid)
