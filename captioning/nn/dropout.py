"""Dropout from random bytes.

One random number per value would take a seventh of a training step on a CPU.
"""

import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from captioning.nn.shared_draws import RowKind, draw_rows

_BYTES = 8  # per 64-bit number


class Dropout(nn.Module):
    """Set values to zero with probability p and scale the others by ``1 / (1 - p)``.

    Inverted dropout (Srivastava et al. 2014), as ``torch.nn.Dropout``, with p rounded to a multiple
    of 1/256.

    Args:
        p: Dropout probability, 0 to below 1.
        rows: What the rows are, for a batch that is divided among several processes.
    """

    def __init__(self, p: float, rows: RowKind = "images") -> None:
        super().__init__()
        self.p = p
        self.rows = rows
        self.threshold = min(round(256 * p), 255)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Apply dropout in training mode; return ``x`` unchanged in evaluation mode."""
        if not self.training or not self.threshold:
            return x

        def draw(count: int) -> UInt8[Tensor, "*shape"]:
            values = count * math.prod(x.shape[1:])
            draws = torch.empty(-(-values // _BYTES), dtype=torch.int64, device=x.device)
            draws.random_(-(2**63), 2**63 - 1)
            return draws.view(torch.uint8)[:values].view(count, *x.shape[1:])

        kept = draw_rows(self.rows, len(x), draw) >= self.threshold
        return x * kept.to(x.dtype).mul_(256 / (256 - self.threshold))
