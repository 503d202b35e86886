import os
import signal
import sys

import pytest
import torch

from captioning.data import reading
from captioning.data.images import read_image
from captioning.data.preprocessing import Preprocessing
from captioning.data.reading import PictureReader
from captioning.errors import SettingsError

needs_fork = pytest.mark.skipif(sys.platform != "linux", reason="workers see the patched reader")
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


@pytest.mark.parametrize("workers", [0, 2])
def test_long_lists_are_read_in_rounds(pictures, workers, monkeypatch):
    monkeypatch.setattr(reading, "_BATCHES_PER_ROUND", 1)
    reader = PictureReader(PREPROCESSING, 5, workers)
    check(rows(reader, pictures), pictures, [pictures[3], pictures[6], pictures[7]])
    assert rows(reader, []) == []


def broken(monkeypatch, name, act):
    """Let reading ``name`` do ``act``."""

    def read(source, **settings):
        if source == name:
            act()
        return read_image(source, **settings)

    monkeypatch.setattr(reading, "read_image", read)


@needs_fork
@pytest.mark.parametrize("place", [0, 5, 11])
def test_decoder_that_crashes_takes_only_its_own_picture(pictures, place, monkeypatch):
    good = [name for name in pictures if name not in (pictures[3], pictures[6], pictures[7])]
    names = [*good[:place], "crash.png", *good[place:]]
    broken(monkeypatch, "crash.png", lambda: os.kill(os.getpid(), signal.SIGSEGV))
    found = rows(PictureReader(PREPROCESSING, 2, 2), names)
    check(found, names, ["crash.png"])
    (error,) = (error for name, _, error in found if name == "crash.png")
    assert "crash.png made the process that read it crash" in error


@needs_fork
def test_a_picture_by_itself_is_read_in_a_process_of_its_own_too(pictures, monkeypatch):
    broken(monkeypatch, "crash.png", lambda: os.kill(os.getpid(), signal.SIGSEGV))
    (found,) = rows(PictureReader(PREPROCESSING, 1, 2), ["crash.png"])
    assert "made the process that read it crash" in found[2]


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"workers": -1}])
def test_settings_that_read_nothing_are_refused(settings):
    with pytest.raises(SettingsError, match=next(iter(settings))):
        PictureReader(PREPROCESSING, **settings)


@pytest.mark.parametrize("error", [MemoryError("no room"), RuntimeError("odd"), ValueError("bad")])
@pytest.mark.parametrize("workers", [0, 2])
def test_picture_that_cannot_be_resized_is_reported(pictures, workers, error, monkeypatch):
    if workers and sys.platform != "linux":
        pytest.skip("workers see the patched reader")

    def fail():
        raise error

    broken(monkeypatch, pictures[0], fail)
    found = rows(PictureReader(PREPROCESSING, 2, workers), pictures[:3])
    check(found, pictures[:3], [pictures[0]])
    assert str(error) in found[0][2]


def test_cut_off_pictures_are_read_on_request(pictures):
    found = rows(PictureReader(PREPROCESSING, workers=0, allow_truncated=True), [pictures[6]])
    assert not found[0][2]


def test_pixel_batches_hold_no_more_than_they_should(pictures):
    sizes = [len(b.sources) for b in PictureReader(PREPROCESSING, 5, 0).batches(pictures)]
    assert sizes == [5, 5, 2]


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset by peer"), EOFError()])
def test_worker_that_dies_while_it_hands_over_pixels_costs_no_picture(error, pictures, monkeypatch):
    load, calls = PictureReader._load, []

    def broken_once(self, names, batch_size, workers):
        calls.append(len(names))
        if len(calls) == 1:
            raise error
        return load(self, names, batch_size, workers)

    monkeypatch.setattr(PictureReader, "_load", broken_once)
    found = rows(PictureReader(PREPROCESSING, 4, 2), pictures)
    check(found, pictures, [pictures[3], pictures[6], pictures[7]])
    assert len(calls) > 1
