"""Detection of bfloat16. Oracle: the CPU flags that Linux reports."""

from pathlib import Path

import pytest
import torch

from captioning.nn.device import has_bfloat16
from captioning.training import precision
from captioning.training.precision import warn_slow_precision

CPU = Path("/proc/cpuinfo")
FLAGS = CPU.read_text(encoding="utf-8").split() if CPU.is_file() else []


@pytest.mark.skipif("avx2" not in FLAGS, reason="the flags are those of x86")
def test_has_bfloat16_on_x86_requires_avx512():
    assert has_bfloat16(torch.device("cpu")) == {"avx512bw", "avx512vl", "avx512dq"}.issubset(FLAGS)


@pytest.mark.parametrize(
    ("precision_name", "supported", "warned"),
    [("bfloat16", False, True), ("bfloat16", True, False), ("float32", False, False)],
)
def test_warn_slow_precision_only_without_bfloat16(precision_name, supported, warned, monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: supported)
    warning = warn_slow_precision(precision_name, torch.device("cpu"))
    assert (warning is not None) == warned
    assert not warned or "--training.precision float32" in warning
