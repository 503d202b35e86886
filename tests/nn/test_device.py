"""Device selection."""

import pytest
import torch

from captioning.errors import ConfigError
from captioning.nn.device import resolve_device


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_resolve_device_auto_prefers_cuda_then_mps(cuda, mps, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert resolve_device("auto").type == expected


def test_resolve_device_named_returns_it():
    assert resolve_device("cpu") == torch.device("cpu")


def test_resolve_device_unavailable_lists_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"Use auto, cpu, cuda:0 or cuda:1\."):
        resolve_device("nonsense")


@pytest.mark.parametrize("name", ["nonsense", "cuda:99", ""])
def test_resolve_device_unavailable_raises(name):
    with pytest.raises(ConfigError, match=f"device {name!r} is not available.*Use auto"):
        resolve_device(name)
