"""Dropout from random bytes: drawing a number for each place costs a CPU a seventh of a step."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

_BYTES = 8  # of a 64-bit number


class Dropout(nn.Module):
    """Drop each number with probability ``p`` and scale the others by ``1 / (1 - p)``.

    Srivastava et al. (2014), Dropout, in the inverted form. It is ``torch.nn.Dropout`` but for
    ``p``, which is rounded to a 256th.

    Args:
        p: At least 0 and below 1.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.threshold = min(round(256 * p), 255)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return ``x`` as it is in evaluation mode, else with numbers dropped."""
        if not self.training or not self.threshold:
            return x
        draws = torch.empty(-(-x.numel() // _BYTES), dtype=torch.int64, device=x.device)
        draws.random_(-(2**63), 2**63 - 1)
        kept = draws.view(torch.uint8)[: x.numel()].view(x.shape) >= self.threshold
        return x * kept.to(x.dtype).mul_(256 / (256 - self.threshold))
