"""Selection of the device that runs the model."""

import platform
import re

import torch

from captioning.errors import ConfigError
from captioning.processes import process_count

_KINDS = ("cpu", "cuda", "mps")


def resolve_device(name: str = "auto") -> torch.device:
    """Return the device with this name, after a check that it works here.

    Args:
        name: A device of torch, such as ``cpu``, ``cuda``, ``cuda:1`` or ``mps``. ``auto`` selects
            CUDA if available, then MPS, then the CPU.

    Raises:
        ConfigError: The name is unknown or the device is not available.
    """
    if name == "auto":
        return torch.device(_best_device())
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        kind = name.partition(":")[0]
        reason = re.split(r"\.?\n|\. ", str(error))[0] if kind in _KINDS else "unknown name"
        raise ConfigError(
            f"device {name!r} is not available: {reason}. Use {_list_devices()}."
        ) from error
    return device


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


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether products are faster in bfloat16 than in float32 (on x86: AVX512-BF16)."""
    if device.type == "cpu" and platform.machine().lower() in ("x86_64", "amd64"):
        # torch has no public function for it, and may rename this one.
        is_supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        return is_supported() and has_bfloat16(device)
    return has_bfloat16(device)


def _list_devices() -> str:
    """Return the names of the devices that are available here."""
    names = ["auto", "cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    names += ["mps"] if torch.backends.mps.is_available() else []
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    one_process = process_count() == 1  # processes exchange gradients between CPUs or CUDA devices
    return "mps" if one_process and torch.backends.mps.is_available() else "cpu"
