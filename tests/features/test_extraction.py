"""Extraction of features: views, several processes, interruption, and grids."""

import copy
import errno
import json
import shutil
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from captioning.errors import ConfigError
from captioning.features import extraction
from captioning.features.extraction import ExtractionConfig, cache_features
from captioning.images.augmentation import fixed_view
from captioning.images.loader import ImageLoader
from captioning.nn.encoder import Encoder
from captioning.nn.encoder_config import EncoderConfig
from captioning.training.training_config import TrainingConfig


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Encoder(EncoderConfig("timm:test_resnet", weights=None, image_size=32)).eval()


def cached(encoder, paths, folder, on_progress=lambda done, total: None):
    paths = [Path(path) for path in paths]
    config = ExtractionConfig(grid=True, hflip=True, crops=3, batch_size=4, workers=0)
    return cache_features(encoder, paths, folder, config, on_progress=on_progress)


def test_extraction_encodes_each_view(encoder, images, tmp_path):
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
def test_extraction_by_two_processes_runs_once(encoder, images, tmp_path, monkeypatch, end):
    """The second waits and writes nothing, even while the index is missing."""
    begun, waited = threading.Event(), threading.Event()
    encoding, reported = [], []
    encode_views = extraction._encode_views

    class DiedError(Exception):
        pass

    def noted(*words, **settings):
        encoding.append(threading.get_ident())
        return encode_views(*words, **settings)

    def slow(done, total):
        if done == 4:
            begun.set()
            assert waited.wait(60)
            if end == "died":
                raise DiedError

    def run():
        with suppress(DiedError):
            cached(encoder, images, tmp_path, slow)

    def on_progress(done, total):
        reported.append(done)
        if len(reported) == 1:
            (index,) = tmp_path.glob("*/index.json")
            index.rename(tmp_path / "away")
        if len(reported) == 2:
            (folder,) = tmp_path.glob("*/")
            (tmp_path / "away").rename(folder / "index.json")
            waited.set()

    monkeypatch.setattr(extraction, "_encode_views", noted)
    monkeypatch.setattr(extraction, "_FLUSH_INTERVAL", 1)
    first = threading.Thread(target=run)
    first.start()
    assert begun.wait(60)
    second = cached(encoder, images, tmp_path, on_progress)
    first.join()
    assert reported[0] == 4
    assert reported[-1] == len(images)
    if end == "well":
        assert set(encoding) == {first.ident}
    else:
        assert encoding[0] == first.ident != encoding[-1]
    batches = len(encoding)
    assert second.complete
    assert second.unreadable
    again = cached(encoder, images, tmp_path / "again")
    assert len(encoding) == 2 * batches  # no batch was encoded twice
    assert (second.rows == again.rows).all()


def test_extraction_without_locks_runs_unlocked(encoder, images, tmp_path, monkeypatch):
    class NoLock(FileLock):
        def acquire(self, *words, **settings):
            raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(extraction, "FileLock", NoLock)
    reported = []
    cache = cached(encoder, images, tmp_path, lambda done, total: reported.append(done))
    assert cache.complete
    assert reported == [0, 4, 8, 12]


def test_extraction_interrupted_resumes(encoder, images, tmp_path, monkeypatch):
    monkeypatch.setattr("captioning.features.extraction._FLUSH_INTERVAL", 1)
    whole = cached(encoder, images, tmp_path / "whole")

    class StoppedError(Exception):
        pass

    def stop(done, total):
        if done >= 8:
            raise StoppedError

    with pytest.raises(StoppedError):
        cached(encoder, images, tmp_path / "cut", on_progress=stop)
    left = []

    def on_progress(done, total):
        left.append(done)

    again = cached(encoder, images, tmp_path / "cut", on_progress=on_progress)
    assert left == [8, 12]
    assert (again.rows == whole.rows).all()
    assert again.unreadable == whole.unreadable
    left.clear()
    cached(encoder, images, tmp_path / "cut", on_progress=on_progress)
    assert left == []


def test_features_directory_depends_on_everything(encoder, images, tmp_path):
    image = tmp_path / "a.png"
    shutil.copy(images[0], image)

    def directory(encoder=encoder, paths=(image,), **settings):
        config = ExtractionConfig(workers=0, **settings)
        return cache_features(encoder, paths, tmp_path / "features", config).directory

    torch.manual_seed(1)
    config = EncoderConfig("timm:test_resnet", weights=None, image_size=32)
    others = [Encoder(config), Encoder(replace(config, name="timm:test_resnet.r160_in1k"))]
    others += [copy.deepcopy(encoder)]
    others[-1].preprocessing = replace(encoder.preprocessing, fit="crop")
    found = [directory(), *map(directory, others), directory(paths=(image, image))]
    changes = ({"grid": True}, {"hflip": True}, {"hflip": True, "crops": 2})
    found += [directory(**change) for change in (*changes, {"precision": "bfloat16"})]
    assert directory() == found[0]
    shutil.copy(images[1], image)
    found.append(directory())
    assert len(set(found)) == len(found)
    assert directory(paths=(tmp_path / "absent.png",)) not in found


def test_training_config_crops_need_hflip():
    with pytest.raises(ConfigError, match="hflip is off"):
        TrainingConfig(cached_crops=2, hflip=False)
    with pytest.raises(ConfigError, match="cached_crops is -1"):
        TrainingConfig(cached_crops=-1)


@pytest.mark.parametrize(("precision", "near"), [("float32", 2e-3), ("bfloat16", 8e-3)])
def test_extraction_averages_cached_grids(precision, near, encoder, images, tmp_path, monkeypatch):
    size = 2 * encoder.positions * encoder.feature_size * 4
    monkeypatch.setattr("captioning.features.extraction._AVERAGE_BYTES", 5 * size)
    paths = [Path(path) for path in images]
    config = ExtractionConfig(hflip=True, batch_size=4, workers=0, precision=precision)
    expected = cache_features(encoder, paths, tmp_path / "alone", config)
    cache_features(encoder, paths, tmp_path / "both", replace(config, grid=True))

    def encode_views(*arguments, **settings):
        pytest.fail("images were encoded again")

    monkeypatch.setattr("captioning.features.extraction._encode_views", encode_views)
    found = cache_features(encoder, paths, tmp_path / "both", config)
    assert found.complete
    assert found.unreadable == expected.unreadable != {}
    assert expected.rows.any()
    close = {"rtol": near, "atol": 1e-4}  # both are rounded to 16 bits
    torch.testing.assert_close(torch.tensor(found.rows), torch.tensor(expected.rows), **close)


@pytest.mark.parametrize(
    "damage", ["unfinished", "no index", "other shape", "no rows", "cut rows", "empty rows"]
)
def test_extraction_ignores_incomplete_grids(damage, encoder, images, tmp_path):
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
