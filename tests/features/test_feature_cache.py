"""Cached rows on disk: resume, damage, and joined caches."""

import errno
import os

import numpy as np
import pytest
import torch

from captioning.errors import DataError
from captioning.features.cache import FeatureCache, JoinedCaches

SHAPE = (5, 2, 3, 4)


def rows(count):
    return torch.randn(count, *SHAPE[1:])


def test_cache_returns_appended_rows(tmp_path):
    cache, features = FeatureCache(tmp_path, SHAPE), rows(5)
    cache.append(features[:2], {})
    cache.append(features[2:], {0: "broken"})
    assert cache.complete
    assert cache.unreadable == {2: "broken"}
    found = cache.read(torch.tensor([4, 0]), torch.tensor([1, 0]))
    expected = torch.stack([features[4, 1], features[0, 0]])
    torch.testing.assert_close(found, expected.half().float())
    torch.testing.assert_close(cache.read(torch.tensor([3])), features[3:4, 0].half().float())


def test_interrupted_cache_continues_after_last_flush(tmp_path):
    features = rows(5)
    cache = FeatureCache(tmp_path, SHAPE)
    cache.append(features[:2], {1: "broken"})
    cache.flush()
    cache.append(features[2:3], {})  # lost: never flushed
    again = FeatureCache(tmp_path, SHAPE)
    assert (again.done, again.complete, again.unreadable) == (2, False, {1: "broken"})
    again.append(features[2:], {})
    again.flush()
    last = FeatureCache(tmp_path, SHAPE)
    assert last.complete
    assert np.array_equal(last.rows, features.half().numpy())


@pytest.mark.parametrize("damage", ["cut", "empty", "no array", "missing", "other numbers"])
def test_cache_with_damaged_rows_starts_again(damage, tmp_path):
    cache = FeatureCache(tmp_path, SHAPE)
    cache.append(rows(5), {3: "broken"})
    cache.flush()
    path = tmp_path / "features.npy"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "other numbers":
        np.save(path, np.zeros(SHAPE, np.float32))
    else:
        path.write_bytes({"cut": content[:-16], "empty": b"", "no array": b"x" * 500}[damage])
    for _ in range(2):  # the second time after a process that flushed nothing
        again = FeatureCache(tmp_path, SHAPE)
        assert (again.done, again.unreadable) == (0, {})
    again.append(rows(5), {})
    again.flush()
    assert FeatureCache(tmp_path, SHAPE).complete


def test_two_processes_filling_a_cache_complete_it(tmp_path):
    features = rows(5)
    ours = FeatureCache(tmp_path, SHAPE)
    ours.append(features[:3], {})
    theirs = FeatureCache(tmp_path, SHAPE)  # before the first flush of the other
    theirs.append(features[:2], {})
    theirs.flush()  # then it is killed
    ours.append(features[3:], {})
    ours.flush()
    last = FeatureCache(tmp_path, SHAPE)
    assert last.complete
    assert np.array_equal(last.rows, features.half().numpy())


def test_cache_file_is_a_memory_mapped_array(tmp_path):
    cache = FeatureCache(tmp_path, SHAPE)
    cache.append(rows(5), {})
    cache.flush()
    array = np.load(tmp_path / "features.npy", mmap_mode="r")
    assert (array.dtype, array.shape) == (np.float16, SHAPE)
    assert isinstance(FeatureCache(tmp_path, SHAPE).rows, np.memmap)


def test_cache_in_unusable_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Use another cache"):
        FeatureCache(tmp_path / "file", SHAPE)


@pytest.mark.parametrize("damage", ["", "[1, 2]", '{"shape": [5', '{"done": 5}'])
def test_cache_with_damaged_index_starts_again(tmp_path, damage):
    cache = FeatureCache(tmp_path, SHAPE)
    cache.append(rows(5), {})
    cache.flush()
    (tmp_path / "index.json").write_text(damage)
    assert FeatureCache(tmp_path, SHAPE).done == 0


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="not available on this system")
def test_cache_on_full_disk_is_refused_at_creation(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match="No space left"):
        FeatureCache(tmp_path / "cache", SHAPE)
    assert not (tmp_path / "cache" / "features.npy").exists()


def test_joined_caches_read_like_one_cache(tmp_path):
    features = rows(5 + 5)
    caches = [FeatureCache(tmp_path / name, SHAPE) for name in "ab"]
    caches[0].append(features[:5], {1: "broken"})
    caches[1].append(features[5:], {2: "torn"})
    joined = JoinedCaches(caches)
    assert (len(joined), joined.views) == (10, 2)
    assert joined.unreadable == {1: "broken", 7: "torn"}
    assert joined.readable == [0, 2, 3, 4, 5, 6, 8, 9]
    images, mirrored = torch.tensor([9, 0, 5, 4, 9]), torch.tensor([0, 1, 1, 0, 1])
    expected = features[images, mirrored].half().float()
    torch.testing.assert_close(joined.read(images, mirrored), expected)
    torch.testing.assert_close(joined.read(images), features[images, 0].half().float())
