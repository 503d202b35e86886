import io
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stand_in_worker import stand_in, worker_where

from captioning.data import pool, reading, worker
from captioning.data.images import read_image
from captioning.data.pool import Picture
from captioning.data.preprocessing import Preprocessing
from captioning.data.reading import PictureReader
from captioning.errors import SettingsError

PREPROCESSING = Preprocessing(size=16)


def rows(reader, names):
    """Return for each picture its name, its pixels or None, and its error."""
    found = []
    for batch in reader.batches(iter(names)):
        pixels = iter(batch.pixels)
        for name, error in zip(batch.sources, batch.errors, strict=True):
            found.append((name, None if error else next(pixels), error))
        assert next(pixels, None) is None
    return found


def check(found, names, bad):
    """Every picture is there once, in order, with its own pixels; the ``bad`` have an error."""
    assert [name for name, _, _ in found] == names
    assert {name for name, _, error in found if error} == set(bad)
    for name, pixels, error in found:
        if not error:
            assert torch.equal(pixels, PREPROCESSING.pixels(read_image(name)))


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 5, 12, 40])
def test_pictures_come_in_order_with_their_own_pixels(pictures, workers, batch_size):
    reader = PictureReader(PREPROCESSING, batch_size, workers)
    check(rows(reader, pictures), pictures, [pictures[3], pictures[6], pictures[7]])


def test_long_lists_outlive_their_workers(pictures, monkeypatch):
    monkeypatch.setattr(pool, "_PICTURES_PER_PROCESS", 2)
    check(rows(PictureReader(PREPROCESSING, 5, 2), pictures), pictures, damaged(pictures))
    assert rows(PictureReader(PREPROCESSING, 5, 2), []) == []


def damaged(pictures):
    return [pictures[3], pictures[6], pictures[7]]


@pytest.mark.parametrize("place", [0, 5, 9])
def test_decoder_that_crashes_takes_only_its_own_picture(pictures, place, monkeypatch):
    names = [name for name in pictures if name not in damaged(pictures)]
    names.insert(place, "crash.png")
    monkeypatch.setattr(pool, "START", worker_where("crash.png", "os.kill(os.getpid(), 11)"))
    found = rows(PictureReader(PREPROCESSING, 2, 2), names)
    check(found, names, ["crash.png"])
    (error,) = (error for name, _, error in found if name == "crash.png")
    assert "crash.png made the process that read it crash (SIGSEGV). The file is dam" in error


def test_decoder_that_hangs_takes_only_its_own_picture_and_the_time_given(pictures, monkeypatch):
    names = [*pictures[:3], "hang.png", *pictures[8:], "hang.png"]
    monkeypatch.setattr(pool, "START", worker_where("hang.png", "time.sleep(1000)"))
    found = rows(PictureReader(PREPROCESSING, 3, 2, time_limit=1.5), names)
    check(found, names, ["hang.png"])
    assert "hang.png was not read within 1.5 seconds" in found[3][2]


def test_a_picture_may_not_fill_the_memory(pictures, monkeypatch):
    if sys.platform != "linux":
        pytest.skip("only Linux holds a process to its bound")
    names = [pictures[0], "large.png", pictures[1]]
    monkeypatch.setattr(pool, "START", worker_where("large.png", "bytearray(8 << 30)"))
    found = rows(PictureReader(PREPROCESSING, 3, 1), names)
    check(found, names, ["large.png"])
    assert found[1][2].startswith("large.png")


PARENT = """
import sys, time
from captioning.data import pool
from captioning.data.preprocessing import Preprocessing
from captioning.data.reading import PictureReader

class Popen(pool.subprocess.Popen):
    def __init__(self, *words, **how):
        super().__init__(*words, **how)
        print(self.pid, flush=True)

pool.subprocess.Popen = Popen
next(PictureReader(Preprocessing(16), 1, 2).batches(sys.argv[1:] * 500))
print("read", flush=True)
time.sleep(1000)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_workers_end_with_the_process_that_started_them(pictures):
    words = [sys.executable, "-c", PARENT, pictures[0]]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        told = [process.stdout.readline().strip() for _ in range(3)]
        workers = [int(word) for word in told if word.isdecimal()]
        process.kill()
    assert workers
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(map(alive, workers)):
        time.sleep(0.05)
    assert not any(map(alive, workers))


def alive(pid):
    try:
        return "captioning.data.worker" in Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_a_decoder_prints_is_no_answer(pictures, monkeypatch):
    monkeypatch.setattr(pool, "START", worker_where(pictures[1], "os.system('echo noise')"))
    check(rows(PictureReader(PREPROCESSING, 3, 1), pictures[:3]), pictures[:3], [])


def test_contents_that_wait_are_bounded(pictures, monkeypatch):
    monkeypatch.setattr(reading, "_BYTES_AHEAD", 1)
    content, taken = Path(pictures[0]).read_bytes(), []

    def asked():
        for number in range(50):
            taken.append(number)
            yield Picture(str(number), content)

    batches = PictureReader(PREPROCESSING, 2, 1).batches(asked())
    next(batches)
    assert len(taken) <= 3
    assert sum(len(batch.pictures) for batch in batches) == 48


def test_a_worker_that_cannot_start_is_told(pictures, monkeypatch):
    monkeypatch.setattr(pool, "START", "sys.exit(3)")
    with pytest.raises(SettingsError, match=r"No process that reads pictures .* --workers 0"):
        rows(PictureReader(PREPROCESSING, 3, 1), pictures[:3])


@pytest.mark.parametrize(
    "settings", [{"batch_size": 0}, {"workers": -1}, {"time_limit": 0.0}, {"time_limit": 1e10}]
)
def test_settings_that_read_nothing_are_refused(settings):
    with pytest.raises(SettingsError, match=next(iter(settings))):
        PictureReader(PREPROCESSING, **settings)


@pytest.mark.parametrize("error", ["MemoryError('room')", "RuntimeError('odd')", "ValueError('x')"])
@pytest.mark.parametrize("workers", [0, 2])
def test_picture_that_cannot_be_resized_is_reported(pictures, workers, error, monkeypatch):
    act = f"raise {error}"
    monkeypatch.setattr(pool, "START", worker_where(pictures[0], act))
    monkeypatch.setattr(worker, "read_image", stand_in(pictures[0], act))
    found = rows(PictureReader(PREPROCESSING, 2, workers), pictures[:3])
    check(found, pictures[:3], [pictures[0]])
    assert error.split("'")[1] in found[0][2]


@pytest.mark.parametrize("workers", [0, 2])
def test_contents_are_read_and_fetched_like_files(pictures, workers):
    def lost():
        raise OSError("nobody is there")

    asked = [
        Picture("a", Path(pictures[0]).read_bytes()),
        Picture("b", Path(pictures[1]).read_bytes),
        Picture("c", b"no picture"),
        Picture("d", lost),
        Picture("e", error="e is gone"),
        Picture(pictures[2]),
        Picture("f", known="what it is"),
    ]
    (batch,) = PictureReader(PREPROCESSING, 9, workers).batches(asked)
    expected = [PREPROCESSING.pixels(read_image(name)) for name in pictures[:3]]
    assert torch.equal(batch.pixels, torch.stack(expected))
    assert batch.pictures == tuple(asked)
    assert batch.errors[2].startswith("c is no picture that can be read")
    assert batch.errors[3] == "d cannot be fetched: nobody is there. Check that it is there."
    assert batch.errors[4] == "e is gone"
    assert [place for place, error in enumerate(batch.errors) if error] == [2, 3, 4]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_server_that_never_answers_costs_its_picture_and_the_time_given(pictures, workers):
    asked = [Picture("slow", lambda: time.sleep(1000) or b""), Picture(pictures[0])]
    reader = PictureReader(PREPROCESSING, 9, workers, time_limit=2.0)
    (batch,) = reader.batches(asked)
    assert batch.errors[0].startswith("slow was not fetched within 2 seconds. Try again")
    assert not batch.errors[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_small_pictures_are_made_on_request(pictures, workers):
    (batch,) = PictureReader(PREPROCESSING, 9, workers, thumbnail=20).batches(pictures[:4])
    assert batch.thumbnails[3] == b""
    for name, small in zip(pictures[:3], batch.thumbnails, strict=False):
        with Image.open(io.BytesIO(small)) as image, Image.open(name) as original:
            assert image.format == "JPEG"
            assert max(image.size) == 20
            expected = original.convert("RGB").resize(image.size, Image.Resampling.BOX)
            off = np.abs(np.asarray(image, float) - np.asarray(expected, float)).mean()
            assert off < 25


def test_cut_off_pictures_are_read_on_request(pictures):
    found = rows(PictureReader(PREPROCESSING, workers=0, allow_truncated=True), [pictures[6]])
    assert not found[0][2]


def test_pixel_batches_hold_no_more_than_they_should(pictures):
    sizes = [len(b.sources) for b in PictureReader(PREPROCESSING, 5, 0).batches(pictures)]
    assert sizes == [5, 5, 2]
