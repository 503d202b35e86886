"""Fixtures for tests that run ``captioning caption``."""

import ctypes
import os
from types import SimpleNamespace

import pytest
from caption_runs import run_command
from small_captioner import write_photos

from captioning.images import worker

_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP = 28, 4  # of Linux
ODD_NAMES = (
    b"new\nline.jpg",
    b"quote\"'.jpg",
    b"no utf-8 \xe9\xff.jpg",
    b"-o.jpg",
    b"<b>&amp;.jpg",
    b"=1+1.jpg",
    "日本語 🐕.jpg".encode(),
    b"long" * 62 + b".jpg",
    b"[a]*.jpg",
    "a line separator \u2028.jpg".encode(),
)


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos", 3)


@pytest.fixture
def caption(model, capsys):
    """Run the command in this process; return its exit code and what it wrote.

    It computes in float32, because in lower precision the captions of an image depend on the
    others of its batch.
    """

    def run(*words):
        flags = ("--model", model, "--workers", "0", "--precision", "float32")
        code = run_command("caption", *words, *flags)
        return SimpleNamespace(code=code, **capsys.readouterr()._asdict())

    return run


@pytest.fixture
def unprivileged():
    """Take the privileges of root from this thread, so that file permissions apply to it."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, before = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capget(header, before)
    libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0)  # for os.access
    dropped = (ctypes.c_uint32 * 6)(0, before[1], before[2], 0, before[4], before[5])
    assert libc.capset(header, dropped) == 0
    yield
    libc.capset(header, before)
    libc.prctl(_PR_SET_SECUREBITS, 0, 0, 0, 0)


@pytest.fixture
def odd_photos(tmp_path):
    """Paths, as bytes, of images in the folder ``odd`` whose names are hard to handle."""
    (photo,) = write_photos(tmp_path, 1)
    folder = tmp_path / "odd"
    folder.mkdir()
    paths = [os.fsencode(folder / os.fsdecode(name)) for name in ODD_NAMES]
    for path in paths:
        os.link(photo, path)
    return paths


@pytest.fixture
def decoded(monkeypatch):
    """The images that were decoded, in order."""
    sources = []
    real = worker.read_image
    monkeypatch.setattr(
        worker,
        "read_image",
        lambda source, **options: sources.append(source) or real(source, **options),
    )
    return sources
