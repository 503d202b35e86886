"""Which precision a processor is made for."""

import torch

from captioning.features.cache_keys import Precision


def has_bfloat16(device: str) -> bool:
    """Whether products in bfloat16 have a fast way on ``device``; on a CPU of x86: AVX-512.

    Without it torch does such products on a CPU one number at a time: a product of two matrices of
    1,024 rows took sixty times as long as in float32 on an AMD EPYC with AVX2 alone.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return True
    if not torch.backends.mkldnn.is_available():
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def fast_precision(device: str) -> Precision:
    """Return the precision in which ``device`` trains fastest."""
    return "bfloat16" if has_bfloat16(device) else "float32"


def precision_advice(precision: Precision, device: str) -> str | None:
    """Return what to tell a person whose processor is slow in the precision asked for."""
    if precision == "float32" or has_bfloat16(device):
        return None
    return (
        f"{device} has no instructions for bfloat16, and training in it may take many times as "
        "long as in float32. To change that, stop the run (Ctrl-C) and begin one with another "
        "output and --training.precision float32."
    )
