"""Shape and type of the rows that are stored for an image."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

_INT8_LEVELS = 255


@dataclass(frozen=True)
class RowFormat:
    """Shape and type of the rows of one image.

    ``int8`` stores each grid position in 8 bits: 256 levels between its minimum and its maximum.

    Attributes:
        views: Number of views of an image.
        positions: P. 1 if only v is stored.
        channels: D.
        dtype: Type of the stored numbers: ``uint8`` for pixels.
    """

    views: int
    positions: int
    channels: int
    dtype: Literal["float16", "int8", "uint8"] = "float16"

    @property
    def view_dtype(self) -> np.dtype:
        """NumPy type of one view."""
        shape = (self.positions, self.channels)
        if self.dtype != "int8":
            return np.dtype((np.dtype(self.dtype), shape))
        ranges = [(name, np.dtype("<f4"), (self.positions, 1)) for name in ("low", "step")]
        return np.dtype([*ranges, ("levels", np.dtype("u1"), shape)])

    @property
    def image_bytes(self) -> int:
        """Bytes of all views of an image."""
        return self.views * self.view_dtype.itemsize

    def pack(self, rows: Shaped[Tensor, "B V P D"]) -> np.ndarray:
        """Return rows as they are stored: an array of ``(B, V)`` views."""
        if self.dtype != "int8":
            return rows.to(getattr(torch, self.dtype)).numpy()
        low = rows.amin(3, keepdim=True)
        step = (rows.amax(3, keepdim=True) - low) / _INT8_LEVELS
        packed = np.empty(rows.shape[:2], self.view_dtype)
        packed["low"], packed["step"] = low.numpy(), step.numpy()
        packed["levels"] = ((rows - low) / step.clamp(min=1e-30)).round().numpy()
        return packed

    def unpack(self, packed: np.ndarray) -> Shaped[Tensor, "B P D"]:
        """Return stored views as a tensor: features as float32, pixels as integers."""
        if self.dtype == "int8":
            low, step = torch.from_numpy(packed["low"]), torch.from_numpy(packed["step"])
            return torch.addcmul(low, torch.from_numpy(packed["levels"]).float(), step)
        rows = torch.from_numpy(packed)
        return rows.float() if rows.is_floating_point() else rows
