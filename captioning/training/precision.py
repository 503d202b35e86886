"""Choice of the floating-point precision by device."""

import torch

from captioning.nn.encoder_config import Precision


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device has instructions for bfloat16 (on x86: AVX-512).

    Without them, torch emulates bfloat16 on a CPU: a product of two matrices of 1,024 rows took
    sixty times as long as in float32 on an AMD EPYC with AVX2.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return True
    if not torch.backends.mkldnn.is_available():
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


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
