"""Views in the cache: what an encoder makes of each, drawn again alike after an interruption."""

import errno
import json
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from captioning.errors import ConfigError
from captioning.features import extraction as cache_module
from captioning.features.extraction import ExtractionConfig, cache_features
from captioning.images.augmentation import fixed_view
from captioning.images.loader import ImageLoader
from captioning.nn.encoder import Encoder, EncoderConfig
from captioning.training.config import TrainingConfig


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Encoder(EncoderConfig("timm:test_resnet", weights=None, image_size=32)).eval()


def cached(encoder, paths, folder, watch=lambda done, total: None):
    paths = [Path(path) for path in paths]
    config = ExtractionConfig(grid=True, hflip=True, crops=3, batch_size=4, workers=0)
    return cache_features(encoder, paths, folder, config, on_progress=watch)


def test_each_view_is_what_the_encoder_makes_of_it(encoder, images, tmp_path):
    cache = cached(encoder, images, tmp_path)
    assert cache.views == 5
    reader = ImageLoader(encoder.preprocessing, 1, 0)
    for place, batch in enumerate(reader.batches(images)):
        if batch.errors[0]:
            assert place in cache.unreadable
            assert not cache.rows[place].any()
            continue
        for view in range(5):
            with torch.inference_mode():
                expected = encoder(fixed_view(batch.pixels, view, [place])).grid[0]
            found = cache.read(torch.tensor([place]), torch.tensor([view]))[0]
            torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("end", ["well", "died"])
def test_of_two_that_want_the_same_one_looks(encoder, images, tmp_path, monkeypatch, end):
    """The other waits and writes nothing, even where the index is away for a moment."""
    begun, waited = threading.Event(), threading.Event()
    looking, told = [], []
    look = cache_module._encode_views

    class DiedError(Exception):
        pass

    def noted(*words, **settings):
        looking.append(threading.get_ident())
        return look(*words, **settings)

    def slow(done, total):
        if done == 4:
            begun.set()
            assert waited.wait(60)
            if end == "died":
                raise DiedError

    def run():
        with suppress(DiedError):
            cached(encoder, images, tmp_path, slow)

    def watch(done, total):
        told.append(done)
        if len(told) == 1:
            (index,) = tmp_path.glob("*/index.json")
            index.rename(tmp_path / "away")
        if len(told) == 2:
            (folder,) = tmp_path.glob("*/")
            (tmp_path / "away").rename(folder / "index.json")
            waited.set()

    monkeypatch.setattr(cache_module, "_encode_views", noted)
    monkeypatch.setattr(cache_module, "_FLUSH_INTERVAL", 1)
    first = threading.Thread(target=run)
    first.start()
    assert begun.wait(60)
    second = cached(encoder, images, tmp_path, watch)
    first.join()
    assert told[0] == 4
    assert told[-1] == len(images)
    if end == "well":
        assert set(looking) == {first.ident}
    else:
        assert looking[0] == first.ident != looking[-1]
    looks = len(looking)
    assert second.complete
    assert second.unreadable
    again = cached(encoder, images, tmp_path / "again")
    assert len(looking) == 2 * looks  # no batch was looked at twice
    assert (second.rows == again.rows).all()


def test_where_there_are_no_locks_each_looks_for_itself(encoder, images, tmp_path, monkeypatch):
    class NoLock(FileLock):
        def acquire(self, *words, **settings):
            raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(cache_module, "FileLock", NoLock)
    told = []
    cache = cached(encoder, images, tmp_path, lambda done, total: told.append(done))
    assert cache.complete
    assert told == [0, 4, 8, 12]


def test_an_interrupted_cache_ends_as_a_whole_one(encoder, images, tmp_path, monkeypatch):
    monkeypatch.setattr("captioning.features.extraction._FLUSH_INTERVAL", 1)
    whole = cached(encoder, images, tmp_path / "whole")

    class StoppedError(Exception):
        pass

    def stop(done, total):
        if done >= 8:
            raise StoppedError

    with pytest.raises(StoppedError):
        cached(encoder, images, tmp_path / "cut", watch=stop)
    left = []
    again = cached(encoder, images, tmp_path / "cut", watch=lambda done, total: left.append(done))
    assert left == [8, 12]
    assert (again.rows == whole.rows).all()
    assert again.unreadable == whole.unreadable
    left.clear()
    cached(encoder, images, tmp_path / "cut", watch=lambda done, total: left.append(done))
    assert left == []


def test_crops_without_mirror_images_are_refused():
    with pytest.raises(ConfigError, match="hflip is off"):
        TrainingConfig(cached_crops=2, hflip=False)
    with pytest.raises(ConfigError, match="cached_crops is -1"):
        TrainingConfig(cached_crops=-1)


@pytest.mark.parametrize(("precision", "near"), [("float32", 2e-3), ("bfloat16", 8e-3)])
def test_vectors_of_cached_grids_are_their_means(
    precision, near, encoder, images, tmp_path, monkeypatch
):
    size = 2 * encoder.positions * encoder.feature_size * 4
    monkeypatch.setattr("captioning.features.extraction._AVERAGE_BYTES", 5 * size)
    paths = [Path(path) for path in images]
    config = ExtractionConfig(hflip=True, batch_size=4, workers=0, precision=precision)
    expected = cache_features(encoder, paths, tmp_path / "alone", config)
    cache_features(encoder, paths, tmp_path / "both", replace(config, grid=True))

    def look(*arguments, **settings):
        pytest.fail("images were encoded again")

    monkeypatch.setattr("captioning.features.extraction._encode_views", look)
    found = cache_features(encoder, paths, tmp_path / "both", config)
    assert found.complete
    assert found.unreadable == expected.unreadable != {}
    assert expected.rows.any()
    close = {"rtol": near, "atol": 1e-4}  # both are rounded to 16 bits
    torch.testing.assert_close(torch.tensor(found.rows), torch.tensor(expected.rows), **close)


@pytest.mark.parametrize(
    "damage", ["unfinished", "no index", "other shape", "no rows", "cut rows", "empty rows"]
)
def test_vectors_do_not_come_from_a_cache_that_is_not_whole(damage, encoder, images, tmp_path):
    paths = [Path(path) for path in images]
    config = ExtractionConfig(batch_size=4, workers=0)
    expected = cache_features(encoder, paths, tmp_path / "alone", config)
    grids = cache_features(encoder, paths, tmp_path / "both", replace(config, grid=True))
    index, rows = grids.directory / "index.json", grids.directory / "features.npy"
    content = json.loads(index.read_text(encoding="utf-8"))
    grids.rows[:] = 7.0
    if damage == "no index":
        index.unlink()
    elif damage == "no rows":
        rows.unlink()
    elif damage == "cut rows":
        rows.write_bytes(rows.read_bytes()[:-16])
    elif damage == "empty rows":
        rows.write_bytes(b"")
    elif damage == "unfinished":
        index.write_text(json.dumps({**content, "done": 4}), encoding="utf-8")
    else:
        index.write_text(json.dumps({**content, "shape": [9, 1, 1, 1]}), encoding="utf-8")
    found = cache_features(encoder, paths, tmp_path / "both", config)
    assert found.rows.tobytes() == expected.rows.tobytes()
