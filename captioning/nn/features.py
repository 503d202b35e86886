"""What an encoder hands to a decoder."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Features:
    """The images of one batch as numbers.

    Attributes:
        vector: v, one vector per image, ``(B, D)``.
        grid: One vector per position of the last feature map, row by row, ``(B, P, D)``; None
            where only vectors were kept.
    """

    vector: Float[Tensor, "B D"]
    grid: Float[Tensor, "B P D"] | None = None

    def __len__(self) -> int:
        return len(self.vector)

    def select(self, rows: Int[Tensor, " M"]) -> "Features":
        """Return the images of ``rows``, which may repeat some and leave others out."""
        grid = None if self.grid is None else self.grid.index_select(0, rows)
        return Features(self.vector.index_select(0, rows), grid)

    def masked(self, mask: Float[Tensor, "B D"]) -> "Features":
        """Return each image's v and every position of its grid, times its row of ``mask``."""
        grid = None if self.grid is None else self.grid * mask.unsqueeze(1)
        return Features(self.vector * mask, grid)

    def to(self, device: torch.device | str) -> "Features":
        """Return the same features as 32-bit numbers on ``device``."""
        grid = None if self.grid is None else self.grid.to(device, torch.float32)
        return Features(self.vector.to(device, torch.float32), grid)
