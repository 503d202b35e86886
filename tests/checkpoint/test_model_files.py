"""Files of a model directory that somebody tampered with are refused, and good ones are read."""

import json
import os
import re
import resource
import signal
import struct
from contextlib import contextmanager
from dataclasses import dataclass

import jaxtyping
import pytest
import torch
from safetensors.torch import save_file

from captioning.checkpoint import json_files as model_files
from captioning.checkpoint.json_files import read_json, read_settings, translated
from captioning.checkpoint.weights_file import open_weights
from captioning.errors import CheckpointError


@pytest.fixture(autouse=True)
def _as_a_user(monkeypatch):
    """A user runs without the type checks of the suite, which would stop some files earlier."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@contextmanager
def within(seconds):
    """Fail, where it would hang."""

    def stop(*_):
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# --- JSON -------------------------------------------------------------------------------------


def test_an_object_is_read_as_it_was_written(tmp_path):
    content = {"a": [1, 2.5, None, True], "ü": {"b": "日本"}, "c": ["😀"]}
    (tmp_path / "plain.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    (tmp_path / "escaped.json").write_text(json.dumps(content))
    (tmp_path / "link.json").symlink_to("plain.json")  # as in the cache of a hub
    for name in ("plain.json", "escaped.json", "link.json"):
        assert read_json(tmp_path / name) == content


def make_pipe(path):
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (make_pipe, "pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "device"),
        (lambda path: path.mkdir(), "folder"),
    ],
)
@pytest.mark.parametrize("reader", [read_json, lambda path: open_weights(path).__enter__()])
def test_what_is_no_regular_file_is_not_opened(tmp_path, make, kind, reader):
    make(tmp_path / "config.json")
    message = f"config.json is a {kind} and no regular file. Copy the model again"
    with within(5), pytest.raises(CheckpointError, match=message):
        reader(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("target", "message"),
    [("nowhere", "has no config.json"), ("config.json", "cannot be read: .*symbolic links")],
)
def test_a_link_that_leads_nowhere_is_said(tmp_path, target, message):
    (tmp_path / "config.json").symlink_to(target)
    with pytest.raises(CheckpointError, match=message):
        read_json(tmp_path / "config.json")


def test_the_folder_of_a_run_is_told_from_the_model_in_it(tmp_path):
    run = tmp_path / "runs" / "k"
    (run / "model").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"k has no config\.json: .*Copy the model again\.$"):
        read_json(run / "config.json")
    (run / "model" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError) as raised:
        read_json(run / "config.json")
    assert str(raised.value).endswith(f" Did you mean {run / 'model'}?")
    assert "Copy" not in str(raised.value)


def test_a_file_larger_than_its_kind_may_be_is_not_read(tmp_path):
    for name, reader in (("a.json", read_json), ("b", lambda path: open_weights(path).__enter__())):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, 10**12)  # zeros that take no room on the disk
        with within(5), pytest.raises(CheckpointError, match="1,000,000,000,000 bytes; no model"):
            reader(tmp_path / name)


def test_json_just_below_the_bound_needs_no_more_memory_than_stated(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b'{"a": [' + b"[]," * (model_files.LARGEST_JSON // 3 - 10) + b"[]]}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(read_json(path)["a"]) > 5_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700 * 1024  # in KiB


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[1]", "holds no JSON object"),
        (b"1e999", "holds no JSON object"),
        (b'{"a": 1', "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read as JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "cannot be read as JSON"),
        (b'{"a":' * 100_000, "cannot be read as JSON"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested more than 64 levels deep"),
        (b'{"a": {"size": 1, "size": 2}}', "'size' stands in it twice"),
        (b'{"a": ["\\ud800"]}', "surrogates not allowed"),
        (b'{"\\udcff": 1}', "surrogates not allowed"),
    ],
)
def test_json_that_is_none_is_said_with_the_file(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_bytes(text)
    with pytest.raises(CheckpointError, match=f"{re.escape(str(path))}.*{message}.*Copy the model"):
        read_json(path)


# --- settings ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    size: int = 1
    share: float = 0.5
    on: bool = False
    name: str | None = None
    mean: tuple[float, float, float] = (0.1, 0.2, 0.3)


GOOD = {"size": 2, "share": 1, "on": True, "name": None, "mean": [0, 0.5, 1e-3]}


def test_settings_of_the_declared_types_are_taken(tmp_path):
    assert read_settings(Settings, GOOD, tmp_path) == Settings(2, 1, True, None, (0, 0.5, 1e-3))
    older = {key: value for key, value in GOOD.items() if key != "on"}
    assert read_settings(Settings, older, tmp_path, before={"on": True}).on is True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": True}, "size is True; it is a whole number"),
        ({"size": 1.0}, "size is 1.0; it is a whole number"),
        ({"size": "3"}, "size is '3'; it is a whole number"),
        ({"share": float("nan")}, "share is nan; it is a finite number"),
        ({"share": float("inf")}, "share is inf; it is a finite number"),
        ({"share": 10**400}, "share is 1000.*; it is a finite number"),
        ({"share": False}, "share is False; it is a finite number"),
        ({"on": 1}, "on is 1; it is true or false"),
        ({"on": "true"}, "on is 'true'; it is true or false"),
        ({"name": 3}, "name is 3; it is a string or null"),
        ({"mean": [0.1, float("nan"), 0.2]}, "mean is .*nan.*list of length 3, each of them a fin"),
        ({"mean": [0.1, 0.2]}, "mean is .*; it is a list of length 3"),
        ({"mean": 0.1}, "mean is 0.1; it is a list of length 3"),
        ({"siez": 1}, "'siez' is not among the part's settings. Did you mean 'size'"),
        ({"x" * 10_000: 1}, "'xxxx.*… is not among the part's settings"),
    ],
)
def test_a_setting_of_another_type_is_refused_by_name(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        read_settings(Settings, {**GOOD, **change}, tmp_path / "config.json", part="part")
    assert "config.json" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_settings_that_are_missing_or_no_object_are_said(tmp_path):
    with pytest.raises(CheckpointError, match="the part lacks mean, name, on, share"):
        read_settings(Settings, {"size": 1}, tmp_path, part="part")
    with pytest.raises(CheckpointError, match="has no part"):
        read_settings(Settings, [1], tmp_path, part="part")


@pytest.mark.parametrize("kind", [AssertionError, ZeroDivisionError, OverflowError, MemoryError])
def test_whatever_a_library_raises_names_the_file(tmp_path, kind):
    def build():
        raise kind("reason " + "x" * 10_000)

    with pytest.raises(CheckpointError, match=r"config\.json") as caught:
        translated(build, tmp_path / "config.json")
    assert len(str(caught.value)) < 1000


# --- weights ----------------------------------------------------------------------------------


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


def test_tensors_are_those_that_safetensors_wrote(tmp_path):
    wanted = tensors()
    save_file(wanted, tmp_path / "model.safetensors")
    with open_weights(tmp_path / "model.safetensors") as stored:
        assert set(stored.tensors) == set(wanted)
        for name, tensor in wanted.items():
            assert stored.tensors[name].shape == tensor.shape
            assert stored.read(name).dtype == tensor.dtype
            assert torch.equal(stored.read(name), tensor)
            whole = stored.read_finite(name)
            assert torch.equal(whole, tensor.float() if tensor.is_floating_point() else tensor)


def rewrite(path, change):
    """Change the header, and leave the numbers as they are."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


@pytest.mark.parametrize("length", [0, 5, 2**31, 2**63, 2**64 - 1])
def test_a_header_of_another_length_takes_no_memory(path, length):
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    with pytest.raises(CheckpointError, match=r"damaged or cut short|cannot be read as JSON"):
        open_weights(path).__enter__()


def test_a_header_as_long_as_a_huge_file_is_not_read(path):
    path.write_bytes(struct.pack("<Q", 2**30))
    os.truncate(path, 2**30 + 8)
    with pytest.raises(CheckpointError, match="its header has 1073741824 bytes, more than"):
        open_weights(path).__enter__()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h["W"].update(shape=[2**40, 2**40]), r"W of the shape .* has 48 bytes and not"),
        (lambda h: h["W"].update(shape=[-3, -4]), "the shape or the place of W is no list of wh"),
        (lambda h: h["W"].update(shape=[3.0, 4]), "the shape or the place of W is no list of wh"),
        (lambda h: h["W"].update(shape=12), "the shape or the place of W is no list of whole"),
        (lambda h: h["W"].update(shape=[1] * 9), "W has 9 dimensions"),
        (lambda h: h["W"].update(dtype="F64"), "W is stored as 'F64'; models of this package hold"),
        (lambda h: h["W"].update(dtype=["F32"]), "W is stored as"),
        (lambda h: h["W"].update(dtype="F16"), "W of the shape .* has 48 bytes and not 24"),
        (lambda h: h["W"].update(data_offsets=[0]), "has 2 dimensions and 1 ends"),
        (lambda h: h["W"].update(data_offsets=[48, 0]), "W of the shape"),
        (lambda h: h["W"].update(data_offsets=[10**9, 10**9 + 48]), "begins at"),
        (lambda h: h["half"].update(h["W"]), "begins at"),
        (lambda h: h.pop("W"), "begins at|bytes of numbers and speaks of"),
        (lambda h: h.update(W=3), "its header does not say what W is"),
        (lambda h: h["W"].update(more=1), "its header does not say what W is"),
        (lambda h: h["W"].pop("dtype"), "its header does not say what W is"),
    ],
)
def test_a_header_that_does_not_fit_the_file_is_refused(path, change, message):
    rewrite(path, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_weights(path).__enter__()
    assert str(path) in str(caught.value)


def test_a_tensor_that_is_there_twice_is_refused(path):
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    entry = b'"W":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},'
    text = b"{" + entry + content[9 : 8 + length]
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    with pytest.raises(CheckpointError, match="'W' stands in it twice"):
        open_weights(path).__enter__()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_tensor_with_a_value_that_is_no_number_is_named(tmp_path, bad, dtype):
    values = torch.ones(2, 50)
    values[1, 17] = bad
    save_file({"good": torch.ones(3), "bad.one": values.to(dtype)}, tmp_path / "model.safetensors")
    with open_weights(tmp_path / "model.safetensors") as stored:
        assert torch.equal(stored.read_finite("good"), torch.ones(3))
        with pytest.raises(CheckpointError, match=r"bad\.one holds values that are no finite"):
            stored.read_finite("bad.one")


def test_a_file_that_shrinks_while_it_is_read_is_said(path):
    with open_weights(path) as stored:
        last = max(stored.tensors, key=lambda name: stored.tensors[name].end)
        os.truncate(path, path.stat().st_size - 1)
        with pytest.raises(CheckpointError, match="damaged or cut short"):
            stored.read(last)


def test_truth_values_are_zero_or_one_whatever_bytes_stand_there(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"mask": torch.zeros(3, dtype=torch.bool)}, path)
    path.write_bytes(path.read_bytes()[:-3] + b"\x00\x02\xff")
    with open_weights(path) as stored:
        assert stored.read("mask").view(torch.uint8).tolist() == [0, 1, 1]
