"""Feature store: rows by content, interruption, damage, several processes, joined rows."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from captioning.errors import DataError
from captioning.features import store as store_module
from captioning.features.cache import ArrayRows, JoinedCaches, StoredRows
from captioning.features.records import RecordFile
from captioning.features.row_format import RowFormat
from captioning.features.store import RowStore

FORMAT = RowFormat(views=2, positions=3, channels=4)
DIGESTS = [hashlib.sha256(bytes([number])).digest()[:16] for number in range(9)]


def draw_rows(count):
    return torch.randn(count, 2, 3, 4).half().float()


def add(folder, digests, rows, *, commit=True, shared=True):
    """Write rows like a process that is killed afterwards, or ends after the commit."""
    writer = RowStore(folder, FORMAT).open_writer(shared=shared)
    writer.append(digests, rows)
    if commit:
        writer.commit()


def read(folder, digests, view=0):
    store = RowStore(folder, FORMAT)
    return store.read(store.find(digests), np.full(len(digests), view))


def test_store_returns_rows_by_digest(tmp_path):
    rows = draw_rows(3)
    assert RowStore(tmp_path / "absent", FORMAT).find(DIGESTS[:2]).tolist() == [-1, -1]
    add(tmp_path, DIGESTS[:2], rows[:2])
    add(tmp_path, DIGESTS[2:3], rows[2:])
    assert torch.equal(read(tmp_path, [DIGESTS[2], DIGESTS[0]], 1), rows[[2, 0], 1])
    assert not read(tmp_path, [DIGESTS[5]]).any()
    assert DIGESTS[5] not in RowStore(tmp_path, FORMAT)


def test_store_ignores_rows_without_commit(tmp_path):
    rows = draw_rows(4)
    add(tmp_path, DIGESTS[:1], rows[:1])
    add(tmp_path, DIGESTS[1:3], rows[1:3], commit=False)
    assert DIGESTS[1] not in RowStore(tmp_path, FORMAT)
    add(tmp_path, DIGESTS[3:4], rows[3:])
    assert torch.equal(read(tmp_path, [DIGESTS[0], DIGESTS[3]]), rows[[0, 3], 0])


@pytest.mark.parametrize("lost", [1, 5, 24, 50])
@pytest.mark.parametrize("name", ["features.index", "features.rows"])
def test_store_with_truncated_file_keeps_the_others(tmp_path, lost, name):
    rows = draw_rows(6)
    add(tmp_path, DIGESTS[:4], rows[:4])
    path = tmp_path / name
    size = path.stat().st_size
    os.truncate(path, size - lost)
    kept = (size - lost) * 4 // size
    store = RowStore(tmp_path, FORMAT)
    assert [digest in store for digest in DIGESTS[:4]] == [row < kept for row in range(4)]
    add(tmp_path, DIGESTS[4:6], rows[4:])  # and the rows after the damage
    left = [*range(kept), 4, 5]
    assert torch.equal(read(tmp_path, [DIGESTS[row] for row in left]), rows[left, 0])
    assert [digest in RowStore(tmp_path, FORMAT) for digest in DIGESTS[kept:4]] == [False] * (
        4 - kept
    )


def test_store_removes_damaged_rows(tmp_path):
    rows = draw_rows(4)
    add(tmp_path, DIGESTS[:4], rows)
    with (tmp_path / "features.rows").open("r+b") as file:
        file.seek(2 * FORMAT.image_bytes + FORMAT.view_dtype.itemsize)  # view 1 of the third image
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    store = RowStore(tmp_path, FORMAT)
    assert torch.equal(read(tmp_path, DIGESTS[:4]), rows[:, 0])
    with pytest.raises(DataError, match=r"1 image in .* are damaged and were removed"):
        store.read(store.find(DIGESTS[2:4]), np.array([1, 1]))
    assert [digest in RowStore(tmp_path, FORMAT) for digest in DIGESTS[:4]] == [
        *(True, True, False, True)
    ]
    add(tmp_path, DIGESTS[2:3], rows[2:3])
    assert torch.equal(read(tmp_path, DIGESTS[:4], 1), rows[:, 1])


def test_damaged_rows_in_a_read_only_store_give_advice(tmp_path, monkeypatch):
    def refuse(self, positions):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    add(tmp_path, DIGESTS[:1], draw_rows(1))
    (tmp_path / "features.rows").write_bytes(bytes(FORMAT.image_bytes))
    monkeypatch.setattr(RecordFile, "erase", refuse)
    store = RowStore(tmp_path, FORMAT)
    with pytest.raises(DataError, match=r"cannot be removed: .*\. Use another cache"):
        store.read(store.find(DIGESTS[:1]), np.array([0]))


def test_store_with_damaged_index_record_loses_one_image(tmp_path):
    rows = draw_rows(3)
    add(tmp_path, DIGESTS[:3], rows)
    path = tmp_path / "features.index"
    content = bytearray(path.read_bytes())
    content[len(content) // 3 + 2] ^= 8
    path.write_bytes(content)
    store = RowStore(tmp_path, FORMAT)
    assert [digest in store for digest in DIGESTS[:3]] == [True, False, True]
    assert torch.equal(read(tmp_path, [DIGESTS[2]]), rows[2:, 0])


def test_store_joins_files_of_processes_without_locks(tmp_path):
    rows = draw_rows(4)
    for row, shared in enumerate([True, False, False, True]):
        add(tmp_path, DIGESTS[row : row + 1], rows[row : row + 1], shared=shared)
    assert len(list(tmp_path.glob("*.rows"))) == 3
    order = [3, 1, 0, 2, 1]
    assert torch.equal(read(tmp_path, [DIGESTS[row] for row in order]), rows[order, 0])


def test_store_on_full_disk_keeps_committed_rows(tmp_path, monkeypatch):
    rows = draw_rows(4)
    add(tmp_path, DIGESTS[:2], rows[:2])
    writer = RowStore(tmp_path, FORMAT).open_writer(shared=True)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store_module.os, "fsync", full)
        writer.append(DIGESTS[2:3], rows[2:3])
        with pytest.raises(OSError, match="No space left"):
            writer.commit()
    store = RowStore(tmp_path, FORMAT)
    assert torch.equal(store.read(store.find(DIGESTS[:2]), np.zeros(2, int)), rows[:2, 0])
    writer.commit()
    assert torch.equal(read(tmp_path, DIGESTS[:3]), rows[:3, 0])


WRITE_FOREVER = """
import sys, torch
from pathlib import Path
from captioning.features.store import RowStore
from captioning.features.row_format import RowFormat
store = RowStore(Path(sys.argv[1]), RowFormat(2, 3, 4))
writer = store.open_writer(shared=True)
for number in range(sum(map(bool, store._entries)), 1_000_000):
    digest = number.to_bytes(16, "little")
    writer.append([digest], torch.full((1, 2, 3, 4), float(number % 1000)))
    if number % 3 == 0:
        writer.commit()
"""


def test_store_survives_repeated_kills(tmp_path):
    stored = 0
    for delay in (0.05, 0.0, 0.12):
        words = [sys.executable, "-c", WRITE_FOREVER, str(tmp_path)]
        process = subprocess.Popen(words)
        index, before = tmp_path / "features.index", stored
        while not index.exists() or index.stat().st_size < 28 * (before + 30):
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        store = RowStore(tmp_path, FORMAT)
        stored = next(n for n in range(10**6) if n.to_bytes(16, "little") not in store)
        assert stored >= before + 30
        entries = store.find([n.to_bytes(16, "little") for n in range(stored)])
        found = store.read(entries, np.ones(stored, int))
        expected = torch.arange(stored) % 1000
        assert torch.equal(found, expected[:, None, None].expand(-1, 3, 4).float())


def test_int8_rows_are_near_the_originals():
    rows = torch.randn(5, 2, 3, 200) * torch.tensor([0.01, 1.0, 300.0])[:, None]
    rows[1] = 0.0
    row_format = RowFormat(2, 3, 200, "int8")
    packed = row_format.pack(rows)
    step = (rows.amax(3) - rows.amin(3)) / 255
    assert packed.nbytes == 5 * row_format.image_bytes == 5 * 2 * 3 * (200 + 8)
    for view in range(2):
        error = (row_format.unpack(packed[:, view]) - rows[:, view]).abs().amax(2)
        assert (error <= 0.501 * step[:, view] + 1e-9).all()


def test_joined_caches_read_like_one_cache():
    features = torch.randn(10, 2, 3, 4)
    joined = JoinedCaches(
        [ArrayRows(features[:5], {1: "broken"}), ArrayRows(features[5:], {2: "torn"})]
    )
    assert (len(joined), joined.views) == (10, 2)
    assert joined.unreadable == {1: "broken", 7: "torn"}
    assert joined.readable == [0, 2, 3, 4, 5, 6, 8, 9]
    images, flipped = torch.tensor([9, 0, 5, 4, 9]), torch.tensor([0, 1, 1, 0, 1])
    assert torch.equal(joined.read(images, flipped), features[images, flipped])
    assert torch.equal(joined.read(images), features[images, 0])


def test_stored_rows_of_unreadable_images_are_zero(tmp_path):
    rows = draw_rows(2)
    add(tmp_path, DIGESTS[:2], rows)
    store = RowStore(tmp_path, FORMAT)
    found = StoredRows(store, [DIGESTS[1], None, DIGESTS[0], DIGESTS[1]], {1: "broken"})
    assert (len(found), found.views, found.readable) == (4, 2, [0, 2, 3])
    images, views = torch.tensor([0, 1, 3, 2]), torch.tensor([1, 1, 0, 0])
    expected = torch.stack([rows[1, 1], torch.zeros(3, 4), rows[1, 0], rows[0, 0]])
    assert torch.equal(found.read(images, views), expected)
