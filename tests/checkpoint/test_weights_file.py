"""Safetensors files that were tampered with are refused, and good ones are read."""

import json
import os
import struct
from pathlib import Path

import jaxtyping
import pytest
import torch
from safetensors.torch import save_file

from captioning.checkpoint.weights_file import open_weights
from captioning.errors import CheckpointError


@pytest.fixture(autouse=True)
def _without_type_checks(monkeypatch):
    """Users run without the type checks of the suite, which would refuse some files earlier."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def read_all(path, **settings):
    with open_weights(path, **settings) as stored:
        return {name: stored.read(name) for name in stored.tensors}


def tensors():
    return {
        "W": torch.randn(3, 4),
        "half": torch.randn(2, 2, 3).half(),
        "brain": torch.randn(5).bfloat16(),
        "count": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "none": torch.empty(0, 3),
    }


@pytest.fixture
def path(tmp_path):
    save_file(tensors(), tmp_path / "model.safetensors", {"format": "pt"})
    return tmp_path / "model.safetensors"


def test_read_returns_saved_tensors_in_32_bits(tmp_path):
    wanted = tensors()
    save_file(wanted, tmp_path / "model.safetensors")
    with open_weights(tmp_path / "model.safetensors") as stored:
        assert set(stored.tensors) == set(wanted)
        for name, tensor in wanted.items():
            assert (stored.tensors[name].shape, stored.tensors[name].dtype) == (
                tensor.shape,
                tensor.dtype,
            )
            found = stored.read(name)
            expected = tensor.float() if tensor.is_floating_point() else tensor
            assert found.dtype == expected.dtype
            assert torch.equal(found, expected)


def rewrite(path, change):
    """Change the header and keep the values."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


@pytest.mark.parametrize("length", [0, 5, 2**31, 2**63, 2**64 - 1])
def test_open_header_of_wrong_length_is_refused(path, length):
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    with pytest.raises(CheckpointError, match="is damaged or truncated"):
        read_all(path)


def test_open_huge_header_is_refused(path):
    path.write_bytes(struct.pack("<Q", 2**30))
    os.truncate(path, 2**30 + 8)
    with pytest.raises(CheckpointError, match="its header has 1073741824 bytes, the limit is"):
        read_all(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h["W"].update(shape=[2**40, 2**40]),
        lambda h: h["W"].update(shape=[-3, -4]),
        lambda h: h["W"].update(shape=[3.0, 4]),
        lambda h: h["W"].update(shape=12),
        lambda h: h["W"].update(dtype=["F32"]),
        lambda h: h["W"].update(dtype="F16"),
        lambda h: h["W"].update(dtype="F64", shape=[3, 2]),
        lambda h: h["W"].update(data_offsets=[0]),
        lambda h: h["W"].update(data_offsets=[48, 0]),
        lambda h: h["W"].update(data_offsets=[10**9, 10**9 + 48]),
        lambda h: h["half"].update(h["W"]),
        lambda h: h.pop("W"),
        lambda h: h.update(W=3),
        lambda h: h["W"].pop("dtype"),
    ],
)
def test_open_header_that_does_not_fit_is_refused(path, change):
    rewrite(path, change)
    with pytest.raises(CheckpointError, match=r"is damaged or truncated|has dtype F64") as caught:
        read_all(path)
    assert str(path) in str(caught.value)


def test_open_deeply_nested_header_is_refused(path):
    text = b'{"a":' * 100_000
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(CheckpointError, match=r"is damaged or truncated: .*recursion limit"):
        read_all(path)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (os.mkfifo, "pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "device"),
        (Path.mkdir, "folder"),
    ],
)
def test_open_special_file_is_refused(tmp_path, make, kind):
    make(tmp_path / "a")
    with pytest.raises(CheckpointError, match=f"cannot read .*it is a {kind}, not a regular file"):
        read_all(tmp_path / "a")


def test_open_larger_file_than_allowed_is_refused(path):
    with pytest.raises(CheckpointError, match="the limit is 10"):
        read_all(path, max_bytes=10)
    os.truncate(path, 10**12)  # a sparse file
    with pytest.raises(CheckpointError, match="it has 1,000,000,000,000 bytes, the limit is"):
        read_all(path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_read_value_that_is_not_finite_names_the_tensor(tmp_path, bad, dtype):
    values = torch.ones(2, 50)
    values[1, 17] = bad
    save_file({"good": torch.ones(3), "bad.one": values.to(dtype)}, tmp_path / "model.safetensors")
    with open_weights(tmp_path / "model.safetensors") as stored:
        assert torch.equal(stored.read("good"), torch.ones(3))
        with pytest.raises(CheckpointError, match=r"bad\.one has values that are not finite"):
            stored.read("bad.one")


def test_read_file_cut_after_opening_is_refused(path):
    save_file({"W": torch.zeros(100_000)}, path)
    with open_weights(path) as stored:
        os.truncate(path, path.stat().st_size - 1)
        with pytest.raises(CheckpointError, match="is damaged or truncated: W is incomplete"):
            stored.read("W")


def test_read_bool_gives_zero_or_one_for_any_byte(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"mask": torch.zeros(3, dtype=torch.bool)}, path)
    path.write_bytes(path.read_bytes()[:-3] + b"\x00\x02\xff")
    with open_weights(path) as stored:
        assert stored.read("mask").view(torch.uint8).tolist() == [0, 1, 1]
