"""Image loader: order, errors of single images, limits, and clean ends."""

import hashlib
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
from captioning.images import loader as loader_module
from captioning.images import worker
from captioning.images import worker_pool as pool
from captioning.images.decode import read_image
from captioning.images.file_digest import stat_file
from captioning.images.image_ref import ImageRef
from captioning.images.loader import ImageLoader
from captioning.images.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(size=16)


def load_rows(loader, names):
    """Return the name, the pixels or None, and the error of each image."""
    found = []
    for batch in loader.batches(iter(names)):
        pixels = iter(batch.pixels)
        names = [image.name for image in batch.images]
        for name, error in zip(names, batch.errors, strict=True):
            found.append((name, None if error else next(pixels), error))
        assert next(pixels, None) is None
    return found


def damaged(images):
    return [images[3], images[6], images[7]]


def check(found, names, bad):
    """Check that each image is there once, in order, with its own pixels; ``bad`` have an error."""
    assert [name for name, _, _ in found] == names
    assert {name for name, _, error in found if error} == set(bad)
    for name, pixels, error in found:
        if not error:
            assert torch.equal(pixels, PREPROCESSING.pixels(read_image(name)))


@pytest.mark.parametrize(("workers", "batch_size"), [(0, 5), (1, 1), (1, 12), (3, 5), (3, 40)])
def test_loader_yields_images_in_order(images, workers, batch_size):
    loader = ImageLoader(PREPROCESSING, batch_size, workers)
    check(load_rows(loader, images), images, damaged(images))


def test_loader_replaces_worn_out_workers(images, monkeypatch):
    monkeypatch.setattr(pool, "_IMAGES_PER_PROCESS", 2)
    check(load_rows(ImageLoader(PREPROCESSING, 5, 2), images), images, damaged(images))
    assert load_rows(ImageLoader(PREPROCESSING, 5, 2), []) == []


@pytest.mark.parametrize("place", [0, 9])
def test_crash_of_a_decoder_fails_one_image(images, place, monkeypatch):
    names = [name for name in images if name not in damaged(images)]
    names.insert(place, "crash.png")
    monkeypatch.setattr(pool, "WORKER_CODE", worker_where("crash.png", "os.kill(os.getpid(), 11)"))
    found = load_rows(ImageLoader(PREPROCESSING, 2, 2), names)
    check(found, names, ["crash.png"])
    (error,) = (error for name, _, error in found if name == "crash.png")
    assert "cannot read 'crash.png': its decoder crashed (SIGSEGV). The file is dam" in error


def test_hang_of_a_decoder_fails_one_image(images, monkeypatch):
    names = [*images[:3], "hang.png", *images[8:], "hang.png"]
    monkeypatch.setattr(pool, "WORKER_CODE", worker_where("hang.png", "time.sleep(1000)"))
    found = load_rows(ImageLoader(PREPROCESSING, 3, 2, time_limit=1.5), names)
    check(found, names, ["hang.png"])
    assert "cannot read 'hang.png': not finished within 1.5 seconds" in found[3][2]


def test_memory_limit_fails_one_image(images, monkeypatch):
    if sys.platform != "linux":
        pytest.skip("only Linux enforces the limit")
    names = [images[0], "large.png", images[1]]
    monkeypatch.setattr(pool, "WORKER_CODE", worker_where("large.png", "bytearray(8 << 30)"))
    found = load_rows(ImageLoader(PREPROCESSING, 3, 1), names)
    check(found, names, ["large.png"])
    assert "large.png" in found[1][2]


PARENT = """
import sys, time
from captioning.images import worker_pool as pool
from captioning.images.preprocessing import Preprocessing
from captioning.images.loader import ImageLoader

class Popen(pool.subprocess.Popen):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        print(self.pid, flush=True)

pool.subprocess.Popen = Popen
next(ImageLoader(Preprocessing(16), 1, 2).batches(sys.argv[1:] * 500))
print("read", flush=True)
time.sleep(1000)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_workers_end_with_their_parent_process(images):
    command = [sys.executable, "-c", PARENT, images[0]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = [process.stdout.readline().strip() for _ in range(3)]
        workers = [int(word) for word in lines if word.isdecimal()]
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


def test_output_of_a_decoder_is_not_a_response(images, monkeypatch):
    monkeypatch.setattr(pool, "WORKER_CODE", worker_where(images[1], "os.system('echo noise')"))
    check(load_rows(ImageLoader(PREPROCESSING, 3, 1), images[:3]), images[:3], [])


def test_loader_bounds_waiting_contents(images, monkeypatch):
    monkeypatch.setattr(loader_module, "_MAX_BYTES_AHEAD", 1)
    content, taken = Path(images[0]).read_bytes(), []

    def requests():
        for number in range(50):
            taken.append(number)
            yield ImageRef(str(number), content)

    batches = ImageLoader(PREPROCESSING, 2, 1).batches(requests())
    next(batches)
    assert len(taken) <= 3
    assert sum(len(batch.images) for batch in batches) == 48


def test_worker_that_cannot_start_is_an_error(images, monkeypatch):
    monkeypatch.setattr(pool, "WORKER_CODE", "sys.exit(3)")
    with pytest.raises(ConfigError, match=r"cannot start an image worker .* --workers 0"):
        load_rows(ImageLoader(PREPROCESSING, 3, 1), images[:3])


@pytest.mark.parametrize(
    "settings", [{"batch_size": 0}, {"workers": -1}, {"time_limit": 0.0}, {"time_limit": 1e10}]
)
def test_invalid_loader_config_is_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        ImageLoader(PREPROCESSING, **settings)


@pytest.mark.parametrize("error", ["MemoryError('room')", "RuntimeError('odd')", "ValueError('x')"])
@pytest.mark.parametrize("workers", [0, 2])
def test_image_that_cannot_be_resized_is_an_error(images, workers, error, monkeypatch):
    act = f"raise {error}"
    monkeypatch.setattr(pool, "WORKER_CODE", worker_where(images[0], act))
    monkeypatch.setattr(worker, "read_image", stand_in(images[0], act))
    found = load_rows(ImageLoader(PREPROCESSING, 2, workers), images[:3])
    check(found, images[:3], [images[0]])
    assert error.split("'")[1] in found[0][2]


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_reads_contents_and_fetches_like_files(images, workers):
    def lost():
        raise OSError("no route. Check the URL.")

    requests = [
        ImageRef("a", Path(images[0]).read_bytes()),
        ImageRef("b", Path(images[1]).read_bytes),
        ImageRef("c", b"no image"),
        ImageRef("d", lost),
        ImageRef("e", error="e is gone"),
        ImageRef(images[2]),
    ]
    (batch,) = ImageLoader(PREPROCESSING, 9, workers).batches(requests)
    expected = [PREPROCESSING.pixels(read_image(name)) for name in images[:3]]
    assert torch.equal(batch.pixels, torch.stack(expected))
    assert batch.images == tuple(requests)
    assert batch.errors[2].startswith("cannot read 'c': file contains text")
    assert batch.errors[3] == "cannot fetch 'd': no route. Check the URL."
    assert batch.errors[4] == "e is gone"
    assert [place for place, error in enumerate(batch.errors) if error] == [2, 3, 4]


@pytest.mark.parametrize("workers", [0, 2])
def test_silent_server_fails_one_image(images, workers):
    requests = [ImageRef("slow", lambda: time.sleep(1000) or b""), ImageRef(images[0])]
    loader = ImageLoader(PREPROCESSING, 9, workers, time_limit=2.0)
    (batch,) = loader.batches(requests)
    assert batch.errors[0].startswith("cannot fetch 'slow': no answer within 2 seconds. Try again")
    assert not batch.errors[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_loader_makes_thumbnails_on_request(images, workers):
    (batch,) = ImageLoader(PREPROCESSING, 9, workers, thumbnail=20).batches(images[:4])
    assert batch.thumbnails[3] == b""
    for name, small in zip(images[:3], batch.thumbnails, strict=False):
        with Image.open(io.BytesIO(small)) as image, Image.open(name) as original:
            assert image.format == "JPEG"
            assert max(image.size) == 20
            expected = original.convert("RGB").resize(image.size, Image.Resampling.BOX)
            off = np.abs(np.asarray(image, float) - np.asarray(expected, float)).mean()
            assert off < 25


def test_loader_reads_truncated_images_on_request(images):
    found = load_rows(ImageLoader(PREPROCESSING, workers=0, allow_truncated=True), [images[6]])
    assert not found[0][2]


def test_loader_yields_batches_of_the_given_size(images):
    sizes = [len(b.images) for b in ImageLoader(PREPROCESSING, 5, 0).batches(images)]
    assert sizes == [5, 5, 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_returns_digests_of_unchanged_files(images, workers):
    digests = {}

    def request(name, stamp):
        return ImageRef(name, stamp=stamp, on_digest=lambda digest: digests.update({name: digest}))

    requests = [request(name, stat_file(name)[1]) for name in images[:4]]
    requests[1] = request(images[1], "1 2 3")
    list(ImageLoader(PREPROCESSING, 9, workers).batches(requests))
    expected = [hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in images[:3]]
    assert digests == {images[0]: expected[0], images[1]: None, images[2]: expected[2]}


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_reports_times_of_each_batch(images, workers, monkeypatch):
    act = "time.sleep(0.2)"
    monkeypatch.setattr(pool, "WORKER_CODE", worker_where(images[1], act))
    monkeypatch.setattr(worker, "read_image", stand_in(images[1], act))
    first, second = ImageLoader(PREPROCESSING, 1, workers).batches(images[:2])
    assert second.reading >= 0.2
    assert first.waited + second.waited >= 0.2
