"""Choice of the floating-point precision by device."""

import torch

from captioning.nn.device import has_bfloat16
from captioning.nn.encoder_config import Precision


def select_precision(device: torch.device) -> Precision:
    """Return the precision in which a device trains fastest."""
    return "bfloat16" if has_bfloat16(device) else "float32"


def warn_slow_precision(precision: Precision, device: torch.device) -> str | None:
    """Return a warning if the device is slow in this precision, otherwise None."""
    if precision == "float32" or has_bfloat16(device):
        return None
    return (
        f"Warning: {device} has no instructions for bfloat16, which can make training many times "
        "slower than in float32. To use float32, stop this run (Ctrl-C) and start another with "
        "--training.precision float32 and another output."
    )
