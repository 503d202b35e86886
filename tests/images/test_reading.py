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

from captioning.errors import ConfigError
from captioning.images import loader as reading
from captioning.images import worker
from captioning.images import worker_pool as pool
from captioning.images.decode import read_image
from captioning.images.loader import ImageLoader
from captioning.images.preprocessing import Preprocessing
from captioning.images.worker_pool import ImageRef

PREPROCESSING = Preprocessing(size=16)


def rows(reader, names):
    """Return for each image its name, its pixels or None, and its error."""
    found = []
    for batch in reader.batches(iter(names)):
        pixels = iter(batch.pixels)
        for name, error in zip(batch.sources, batch.errors, strict=True):
            found.append((name, None if error else next(pixels), error))
        assert next(pixels, None) is None
    return found


def check(found, names, bad):
    """Every image is there once, in order, with its own pixels; the ``bad`` have an error."""
    assert [name for name, _, _ in found] == names
    assert {name for name, _, error in found if error} == set(bad)
    for name, pixels, error in found:
        if not error:
            assert torch.equal(pixels, PREPROCESSING.pixels(read_image(name)))


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 5, 12, 40])
def test_images_come_in_order_with_their_own_pixels(images, workers, batch_size):
    reader = ImageLoader(PREPROCESSING, batch_size, workers)
    check(rows(reader, images), images, [images[3], images[6], images[7]])


def test_long_lists_outlive_their_workers(images, monkeypatch):
    monkeypatch.setattr(pool, "_IMAGES_PER_PROCESS", 2)
    check(rows(ImageLoader(PREPROCESSING, 5, 2), images), images, damaged(images))
    assert rows(ImageLoader(PREPROCESSING, 5, 2), []) == []


def damaged(images):
    return [images[3], images[6], images[7]]


@pytest.mark.parametrize("place", [0, 5, 9])
def test_decoder_that_crashes_takes_only_its_own_image(images, place, monkeypatch):
    names = [name for name in images if name not in damaged(images)]
    names.insert(place, "crash.png")
    monkeypatch.setattr(pool, "START", worker_where("crash.png", "os.kill(os.getpid(), 11)"))
    found = rows(ImageLoader(PREPROCESSING, 2, 2), names)
    check(found, names, ["crash.png"])
    (error,) = (error for name, _, error in found if name == "crash.png")
    assert "crash.png made the process that read it crash (SIGSEGV). The file is dam" in error


def test_decoder_that_hangs_takes_only_its_own_image_and_the_time_given(images, monkeypatch):
    names = [*images[:3], "hang.png", *images[8:], "hang.png"]
    monkeypatch.setattr(pool, "START", worker_where("hang.png", "time.sleep(1000)"))
    found = rows(ImageLoader(PREPROCESSING, 3, 2, time_limit=1.5), names)
    check(found, names, ["hang.png"])
    assert "hang.png was not read within 1.5 seconds" in found[3][2]


def test_a_image_may_not_fill_the_memory(images, monkeypatch):
    if sys.platform != "linux":
        pytest.skip("only Linux holds a process to its bound")
    names = [images[0], "large.png", images[1]]
    monkeypatch.setattr(pool, "START", worker_where("large.png", "bytearray(8 << 30)"))
    found = rows(ImageLoader(PREPROCESSING, 3, 1), names)
    check(found, names, ["large.png"])
    assert found[1][2].startswith("large.png")


PARENT = """
import sys, time
from captioning.images import worker_pool as pool
from captioning.images.preprocessing import Preprocessing
from captioning.images.loader import ImageLoader

class Popen(pool.subprocess.Popen):
    def __init__(self, *words, **how):
        super().__init__(*words, **how)
        print(self.pid, flush=True)

pool.subprocess.Popen = Popen
next(ImageLoader(Preprocessing(16), 1, 2).batches(sys.argv[1:] * 500))
print("read", flush=True)
time.sleep(1000)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_workers_end_with_the_process_that_started_them(images):
    words = [sys.executable, "-c", PARENT, images[0]]
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
        return "captioning.images.worker" in Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_a_decoder_prints_is_no_answer(images, monkeypatch):
    monkeypatch.setattr(pool, "START", worker_where(images[1], "os.system('echo noise')"))
    check(rows(ImageLoader(PREPROCESSING, 3, 1), images[:3]), images[:3], [])


def test_contents_that_wait_are_bounded(images, monkeypatch):
    monkeypatch.setattr(reading, "_BYTES_AHEAD", 1)
    content, taken = Path(images[0]).read_bytes(), []

    def asked():
        for number in range(50):
            taken.append(number)
            yield ImageRef(str(number), content)

    batches = ImageLoader(PREPROCESSING, 2, 1).batches(asked())
    next(batches)
    assert len(taken) <= 3
    assert sum(len(batch.images) for batch in batches) == 48


def test_a_worker_that_cannot_start_is_told(images, monkeypatch):
    monkeypatch.setattr(pool, "START", "sys.exit(3)")
    with pytest.raises(ConfigError, match=r"No process that reads images .* --workers 0"):
        rows(ImageLoader(PREPROCESSING, 3, 1), images[:3])


@pytest.mark.parametrize(
    "settings", [{"batch_size": 0}, {"workers": -1}, {"time_limit": 0.0}, {"time_limit": 1e10}]
)
def test_settings_that_read_nothing_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        ImageLoader(PREPROCESSING, **settings)


@pytest.mark.parametrize("error", ["MemoryError('room')", "RuntimeError('odd')", "ValueError('x')"])
@pytest.mark.parametrize("workers", [0, 2])
def test_image_that_cannot_be_resized_is_reported(images, workers, error, monkeypatch):
    act = f"raise {error}"
    monkeypatch.setattr(pool, "START", worker_where(images[0], act))
    monkeypatch.setattr(worker, "read_image", stand_in(images[0], act))
    found = rows(ImageLoader(PREPROCESSING, 2, workers), images[:3])
    check(found, images[:3], [images[0]])
    assert error.split("'")[1] in found[0][2]


@pytest.mark.parametrize("workers", [0, 2])
def test_contents_are_read_and_fetched_like_files(images, workers):
    def lost():
        raise OSError("nobody is there")

    asked = [
        ImageRef("a", Path(images[0]).read_bytes()),
        ImageRef("b", Path(images[1]).read_bytes),
        ImageRef("c", b"no image"),
        ImageRef("d", lost),
        ImageRef("e", error="e is gone"),
        ImageRef(images[2]),
    ]
    (batch,) = ImageLoader(PREPROCESSING, 9, workers).batches(asked)
    expected = [PREPROCESSING.pixels(read_image(name)) for name in images[:3]]
    assert torch.equal(batch.pixels, torch.stack(expected))
    assert batch.images == tuple(asked)
    assert batch.errors[2].startswith("c is no image that can be read")
    assert batch.errors[3] == "d cannot be fetched: nobody is there. Check that it is there."
    assert batch.errors[4] == "e is gone"
    assert [place for place, error in enumerate(batch.errors) if error] == [2, 3, 4]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_server_that_never_answers_costs_its_image_and_the_time_given(images, workers):
    asked = [ImageRef("slow", lambda: time.sleep(1000) or b""), ImageRef(images[0])]
    reader = ImageLoader(PREPROCESSING, 9, workers, time_limit=2.0)
    (batch,) = reader.batches(asked)
    assert batch.errors[0].startswith("slow was not fetched within 2 seconds. Try again")
    assert not batch.errors[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_small_images_are_made_on_request(images, workers):
    (batch,) = ImageLoader(PREPROCESSING, 9, workers, thumbnail=20).batches(images[:4])
    assert batch.thumbnails[3] == b""
    for name, small in zip(images[:3], batch.thumbnails, strict=False):
        with Image.open(io.BytesIO(small)) as image, Image.open(name) as original:
            assert image.format == "JPEG"
            assert max(image.size) == 20
            expected = original.convert("RGB").resize(image.size, Image.Resampling.BOX)
            off = np.abs(np.asarray(image, float) - np.asarray(expected, float)).mean()
            assert off < 25


def test_cut_off_images_are_read_on_request(images):
    found = rows(ImageLoader(PREPROCESSING, workers=0, allow_truncated=True), [images[6]])
    assert not found[0][2]


def test_pixel_batches_hold_no_more_than_they_should(images):
    sizes = [len(b.sources) for b in ImageLoader(PREPROCESSING, 5, 0).batches(images)]
    assert sizes == [5, 5, 2]
