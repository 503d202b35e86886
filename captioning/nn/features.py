"""Image features: output of an encoder and input of a decoder."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Features:
    """Features of a batch of images.

    Attributes:
        vector: v, one vector per image.
        grid: One vector per position of the last feature map, row by row; None if only vectors
            are kept.
        padding: True for the positions of the grid that are padding: images of a batch can have
            different numbers of positions (regions). None: there is no padding.
        concepts: Strength of each concept (:class:`captioning.nn.concepts.Concepts`). None: the
            decoder computes it from v, if it has concepts.
    """

    vector: Float[Tensor, "B D"]
    grid: Float[Tensor, "B P D"] | None = None
    padding: Bool[Tensor, "B P"] | None = None
    concepts: Float[Tensor, "B C"] | None = None

    @classmethod
    def from_grid(
        cls, grid: Float[Tensor, "B P D"], counts: Int[Tensor, " B"] | None = None
    ) -> "Features":
        """Return features whose v is the mean over the positions of the grid.

        Args:
            grid: Grids, padded with zeros.
            counts: Number of positions of each image without padding, at least 1. None: P.
        """
        if counts is None:
            return cls(grid.mean(1), grid)
        positions = torch.arange(grid.shape[1], device=counts.device)
        return cls(grid.sum(1) / counts.unsqueeze(1), grid, positions >= counts.unsqueeze(1))

    def __len__(self) -> int:
        return len(self.vector)

    def __getitem__(self, images: slice) -> "Features":
        """Return the features of consecutive images."""
        return self._map(lambda part: part[images])

    def select(self, rows: Int[Tensor, " M"]) -> "Features":
        """Return the features of ``rows``, which may repeat."""
        return self._map(lambda part: part.index_select(0, rows))

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Features":
        parts = (self.grid, self.padding, self.concepts)
        return Features(
            function(self.vector), *(None if part is None else function(part) for part in parts)
        )

    def masked(self, mask: Float[Tensor, "B D"]) -> "Features":
        """Return v and every grid position, multiplied by the image's row of ``mask``."""
        grid = None if self.grid is None else self.grid * mask.unsqueeze(1)
        return replace(self, vector=self.vector * mask, grid=grid)

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> "Features":
        """Return the features on a device, with vectors and concepts converted to ``dtype``."""
        grid = None if self.grid is None else self.grid.to(device, dtype)
        padding = None if self.padding is None else self.padding.to(device)
        concepts = None if self.concepts is None else self.concepts.to(device, dtype)
        return Features(self.vector.to(device, dtype), grid, padding, concepts)
