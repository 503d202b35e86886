"""Oracle: what Linux says of the processor."""

from pathlib import Path

import pytest
import torch

from captioning.training import precision
from captioning.training.precision import has_bfloat16, warn_slow_precision

CPU = Path("/proc/cpuinfo")
FLAGS = CPU.read_text(encoding="utf-8").split() if CPU.is_file() else []


@pytest.mark.skipif("avx2" not in FLAGS, reason="the flags that are asked for are those of x86")
def test_processor_without_avx512_has_no_bfloat16():
    assert has_bfloat16(torch.device("cpu")) == {"avx512bw", "avx512vl", "avx512dq"}.issubset(FLAGS)


@pytest.mark.parametrize(
    ("asked", "supported", "told"),
    [("bfloat16", False, True), ("bfloat16", True, False), ("float32", False, False)],
)
def test_slow_precision_is_spoken_of_and_only_then(asked, supported, told, monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: supported)
    advice = warn_slow_precision(asked, torch.device("cpu"))
    assert (advice is not None) == told
    assert not told or "--training.precision float32" in advice
