"""Extraction of features: views, what is encoded again, several processes, and interruption."""

import copy
import errno
import os
import shutil
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_images import draw
from filelock import FileLock

from captioning.errors import ConfigError, OutputError
from captioning.features import content_digests, extraction, locks, row_extraction
from captioning.features.extraction import (
    ExtractionConfig,
    cache_features,
    plan_features,
    plan_pixels,
)
from captioning.graphs import openvino_encoder
from captioning.images.augmentation import fixed_view
from captioning.images.image_ref import FileRange, ImageRef
from captioning.images.loader import ImageLoader
from captioning.nn.encoder import Encoder
from captioning.nn.encoder_config import EncoderConfig
from captioning.training.training_config import TrainingConfig

CONFIG = ExtractionConfig(grid=True, hflip=True, crops=3, batch_size=4, workers=0)
UNREADABLE = 3  # of the twelve images of the fixture


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Encoder(EncoderConfig("timm:test_resnet", weights=None, image_size=32)).eval()


@pytest.fixture
def encoded(monkeypatch):
    """The number of images in each batch that the encoder has received."""
    counts = []
    encode_views = extraction._encode_views

    def count(encode, pixels, *arguments):
        counts.append(len(pixels))
        return encode_views(encode, pixels, *arguments)

    monkeypatch.setattr(extraction, "_encode_views", count)
    return counts


@pytest.fixture
def photos(tmp_path):
    """Nine readable images in a folder."""
    folder = tmp_path / "photos"
    folder.mkdir()
    paths = [folder / f"{number}.png" for number in range(9)]
    for number, path in enumerate(paths):
        draw(number).save(path)
    return paths


def cached(encoder, paths, folder, on_progress=lambda done, total: None, config=CONFIG):
    return cache_features(encoder, list(map(Path, paths)), folder, config, on_progress=on_progress)


def read_all(rows):
    """Return all views of all images."""
    images = torch.arange(len(rows))
    views = [rows.read(images, torch.full_like(images, view)) for view in range(rows.views)]
    return torch.stack(views, 1)


def test_extraction_encodes_each_view(encoder, images, tmp_path):
    cache = cached(encoder, images, tmp_path)
    assert cache.views == 5
    reader = ImageLoader(encoder.preprocessing, 1, 0)
    digests = content_digests.digest_images([ImageRef(path) for path in images], tmp_path)[1]
    for place, batch in enumerate(reader.batches(images)):
        if batch.errors[0]:
            assert cache.unreadable[place] == batch.errors[0]
            continue
        for view in range(5):
            with torch.inference_mode():
                pixels = fixed_view(batch.pixels, view, [int.from_bytes(digests[place][:4])])
                expected = encoder(pixels).grid[0]
            found = cache.read(torch.tensor([place]), torch.tensor([view]))[0]
            torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("change", ["moved", "relative", "touched", "removed", "renamed", "linked"])
def test_same_images_elsewhere_are_not_encoded_again(
    change, encoder, encoded, photos, tmp_path, monkeypatch
):
    expected = read_all(cached(encoder, photos, tmp_path / "store"))
    rows = list(range(9))
    if change == "moved":
        paths = [tmp_path / "elsewhere" / path.name for path in photos]
        photos[0].parent.rename(tmp_path / "elsewhere")
    elif change == "relative":
        monkeypatch.chdir(tmp_path)
        paths = [Path("photos", path.name) for path in photos]
    elif change == "touched":
        for path in photos:
            os.utime(path, (1, 1))
        paths = photos
    elif change == "removed":
        rows = [7, 2, 5]
        paths = [photos[row] for row in rows]
    elif change == "renamed":
        paths = [path.rename(path.with_name(f"photo {path.name}")) for path in photos]
    else:
        (tmp_path / "link").symlink_to(photos[0].parent)
        paths = [tmp_path / "link" / path.name for path in photos]
    assert sum(encoded) == 9
    assert torch.equal(read_all(cached(encoder, paths, tmp_path / "store")), expected[rows])
    assert sum(encoded) == 9


def test_only_added_images_are_encoded(encoder, encoded, photos, tmp_path):
    expected = read_all(cached(encoder, photos, tmp_path / "whole"))
    encoded.clear()
    cached(encoder, photos[:6], tmp_path / "store")
    copies = [tmp_path / "copy.png", photos[7], photos[8], photos[7], photos[6], photos[0]]
    shutil.copy(photos[2], copies[0])
    found = read_all(cached(encoder, copies, tmp_path / "store"))
    assert sum(encoded) == 6 + 3
    assert torch.equal(found, expected[[2, 7, 8, 7, 6, 0]])


def test_changed_image_is_encoded_again(encoder, encoded, photos, tmp_path):
    cached(encoder, photos, tmp_path / "store")
    times = photos[3].stat()
    draw(99).save(photos[3])
    os.utime(photos[3], ns=(times.st_atime_ns, times.st_mtime_ns))
    found = cached(encoder, photos, tmp_path / "store")
    assert sum(encoded) == 10
    alone = cached(encoder, photos[3:4], tmp_path / "alone")
    assert torch.equal(read_all(found)[3], read_all(alone)[0])


def test_image_changed_while_it_is_encoded_is_not_stored(encoder, photos, tmp_path, monkeypatch):
    pixels_of = ImageLoader.batches

    def change_first(self, images):
        for batch in pixels_of(self, images):
            draw(50).save(photos[1])
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(ImageLoader, "batches", change_first)
        found = cached(encoder, photos, tmp_path / "store")
    assert list(found.unreadable) == [1]
    assert "changed while it was read" in found.unreadable[1]
    assert cached(encoder, photos, tmp_path / "store").unreadable == {}


def test_image_linked_while_it_is_encoded_is_stored(encoder, photos, tmp_path, monkeypatch):
    pixels_of = ImageLoader.batches

    def link_first(self, images):
        for batch in pixels_of(self, images):
            (tmp_path / f"link{len(list(tmp_path.iterdir()))}.png").hardlink_to(photos[1])
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(ImageLoader, "batches", link_first)
        assert cached(encoder, photos, tmp_path / "store").unreadable == {}


def test_archive_members_share_the_rows_of_files(encoder, encoded, photos, tmp_path, monkeypatch):
    expected = read_all(cached(encoder, photos[:3], tmp_path / "store"))
    contents = [path.read_bytes() for path in photos[:3]]
    archive = tmp_path / "images.tar"
    archive.write_bytes(b"".join(contents))
    starts = [0, len(contents[0]), len(contents[0]) + len(contents[1])]
    refs = [
        ImageRef(f"images.tar/{row}", FileRange(str(archive), start, len(contents[row])))
        for row, start in enumerate(starts)
    ]
    found = cache_features(encoder, refs, tmp_path / "store", CONFIG)
    assert torch.equal(read_all(found), expected)
    assert sum(encoded) == 3
    monkeypatch.setattr(FileRange, "__call__", lambda self: pytest.fail("read again"))
    assert cache_features(encoder, refs, tmp_path / "store", CONFIG).unreadable == {}


def test_digests_are_read_once(photos, tmp_path, monkeypatch):
    refs = [ImageRef(str(path)) for path in photos]
    reported = []

    def digest(refs):
        reported.clear()
        return content_digests.digest_images(
            refs, tmp_path / "cache", lambda done, total: reported.append((done, total))
        )[1]

    first = digest(refs)
    assert reported == [(0, 9), (9, 9)]
    assert digest(refs) == first
    assert reported == []
    os.utime(photos[4])
    with (tmp_path / "cache" / "digests.index").open("ab") as file:
        file.write(b"torn")  # by a process that was killed
    assert digest([*refs, ImageRef("absent.png")]) == [*first, None]
    assert reported == [(0, 1), (1, 1)]
    assert digest(refs) == first
    assert reported == []


@pytest.mark.parametrize("end", ["well", "died"])
def test_extraction_by_two_processes_runs_once(
    encoder, encoded, images, tmp_path, monkeypatch, end
):
    begun, waited = threading.Event(), threading.Event()
    monkeypatch.setattr(row_extraction, "_COMMIT_IMAGES", 1)
    monkeypatch.setattr(locks, "_RETRY_SECONDS", 0.1)
    reported = []

    class DiedError(Exception):
        pass

    def hold(done, total):
        if done == 4:
            begun.set()
            assert waited.wait(60)
            if end == "died":
                raise DiedError

    def run():
        with suppress(DiedError):
            cached(encoder, images, tmp_path, hold)

    def on_progress(done, total):
        reported.append((done, total))
        if len(reported) == 2:
            waited.set()

    first = threading.Thread(target=run)
    first.start()
    assert begun.wait(60)
    second = cached(encoder, images, tmp_path, on_progress)
    first.join()
    assert reported[0] == (3, 12)  # one of the first four cannot be read
    assert reported[-1] == (12, 12)
    assert sum(encoded) == len(images) - UNREADABLE
    assert len(second.readable) == len(images) - UNREADABLE
    again = cached(encoder, images, tmp_path / "again")
    assert torch.equal(read_all(second), read_all(again))


def test_extraction_without_locks_runs_unlocked(encoder, images, tmp_path, monkeypatch):
    class NoLock(FileLock):
        def acquire(self, *words, **settings):
            raise OSError(errno.ENOLCK, "No locks available")

    expected = read_all(cached(encoder, images, tmp_path / "locked"))
    monkeypatch.setattr(locks, "FileLock", NoLock)
    reported = []
    cached(encoder, images[:5], tmp_path / "store")
    cache = cached(encoder, images, tmp_path / "store", lambda done, _: reported.append(done))
    assert torch.equal(read_all(cache), expected)
    assert reported == [4, 8, 12]


def test_extraction_interrupted_resumes(encoder, encoded, images, tmp_path, monkeypatch):
    whole = cached(encoder, images, tmp_path / "whole")
    encoded.clear()

    class StoppedError(Exception):
        pass

    def stop(done, total):
        if done >= 8:
            raise StoppedError

    with pytest.raises(StoppedError):
        cached(encoder, images, tmp_path / "cut", stop)
    assert sum(encoded) == 5
    left = []
    again = cached(encoder, images, tmp_path / "cut", lambda done, total: left.append(done))
    assert sum(encoded) == len(images) - UNREADABLE
    assert left == [5, 9, 12]
    assert torch.equal(read_all(again), read_all(whole))
    assert again.unreadable == whole.unreadable


def test_unreadable_image_is_used_once_it_is_repaired(encoder, encoded, photos, tmp_path):
    content = photos[2].read_bytes()
    photos[2].write_bytes(content[:200])
    photos.append(tmp_path / "absent.png")
    assert list(cached(encoder, photos, tmp_path / "store").unreadable) == [2, 9]
    photos[2].write_bytes(content)
    draw(9).save(photos[9])
    assert cached(encoder, photos, tmp_path / "store").unreadable == {}
    assert sum(encoded) == 10


def test_extraction_depends_on_everything(encoder, encoded, photos, tmp_path):
    def count(encoder=encoder, **settings):
        encoded.clear()
        config = ExtractionConfig(workers=0, **settings)
        cached(encoder, photos[:1], tmp_path / "features", config=config)
        return sum(encoded)

    torch.manual_seed(1)
    config = EncoderConfig("timm:test_resnet", weights=None, image_size=32)
    others = [Encoder(config), Encoder(replace(config, name="timm:test_resnet.r160_in1k"))]
    others += [copy.deepcopy(encoder)]
    others[-1].preprocessing = replace(encoder.preprocessing, fit="crop")
    changes = ({"hflip": True}, {"hflip": True, "crops": 2}, {"precision": "bfloat16"})
    changes += ({"grid": True}, {"grid": True, "dtype": "int8"}, {"grid": True, "hflip": True})
    for _ in range(2):
        found = [count(), *(count(other) for other in others)]
        found += [count(**change) for change in changes]
        assert found == ([1] * len(found) if _ == 0 else [0] * len(found))
    assert count(dtype="int8") == 0  # v is always stored in 16 bits


def test_training_config_crops_need_hflip():
    with pytest.raises(ConfigError, match="hflip is off"):
        TrainingConfig(cached_crops=2, hflip=False)
    with pytest.raises(ConfigError, match="cached_crops is -1"):
        TrainingConfig(cached_crops=-1)


@pytest.mark.parametrize(("precision", "near"), [("float32", 2e-3), ("bfloat16", 8e-3)])
def test_v_is_the_mean_of_stored_grids(
    precision, near, encoder, encoded, images, tmp_path, monkeypatch
):
    size = 2 * encoder.positions * encoder.feature_size * 4
    monkeypatch.setattr("captioning.features.extraction._AVERAGE_BYTES", 5 * size)
    config = ExtractionConfig(hflip=True, batch_size=4, workers=0, precision=precision)
    expected = cached(encoder, images, tmp_path / "alone", config=config)
    grids = cached(encoder, images[:11], tmp_path / "both", config=replace(config, grid=True))
    encoded.clear()
    found = cached(encoder, images, tmp_path / "both", config=config)
    assert encoded == [1]  # the twelfth image, whose grid is not stored
    assert found.unreadable == expected.unreadable != {}
    close = {"rtol": near, "atol": 1e-4}  # both are rounded to 16 bits
    torch.testing.assert_close(read_all(found), read_all(expected), **close)
    means = read_all(grids).mean(2, keepdim=True)[0]
    means = means.bfloat16() if precision == "bfloat16" else means
    assert torch.equal(read_all(found)[0], means.half().float())


def test_v_is_not_the_mean_of_int8_grids(encoder, encoded, photos, tmp_path):
    config = ExtractionConfig(workers=0)
    expected = cached(encoder, photos, tmp_path / "alone", config=config)
    int8 = replace(config, grid=True, dtype="int8")
    grids = cached(encoder, photos, tmp_path / "both", config=int8)
    whole = cached(encoder, photos, tmp_path / "whole", config=replace(int8, dtype="float16"))
    found = cached(encoder, photos, tmp_path / "both", config=config)
    assert torch.equal(read_all(found), read_all(expected))
    error = (read_all(grids) - read_all(whole)).abs()
    assert 0 < error.max() < read_all(whole).max() / 400


def test_rows_of_an_image_do_not_depend_on_its_batch(encoder, photos, tmp_path):
    together = read_all(cached(encoder, photos, tmp_path / "together"))
    alone = [read_all(cached(encoder, [path], tmp_path / "alone"))[0] for path in photos]
    assert torch.equal(torch.stack(alone), together)


def test_openvino_encodes_many_images_like_torch(encoder, photos, tmp_path, monkeypatch):
    expected = read_all(cached(encoder, photos, tmp_path / "torch"))
    monkeypatch.setattr(extraction, "_OPENVINO_IMAGES", 9)
    used = []
    run = openvino_encoder.OpenVINOEncoder.__call__
    monkeypatch.setattr(
        openvino_encoder.OpenVINOEncoder,
        "__call__",
        lambda graph, pixels: used.append(len(pixels)) or run(graph, pixels),
    )
    found = read_all(cached(encoder, photos, tmp_path / "openvino"))
    assert sum(used) > 9 * CONFIG.views
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)


def test_torch_encodes_what_openvino_does_not_support(
    encoder, photos, tmp_path, monkeypatch, caplog
):
    expected = read_all(cached(encoder, photos, tmp_path / "torch"))
    monkeypatch.setattr(extraction, "_OPENVINO_IMAGES", 9)

    def fail(*arguments):
        raise RuntimeError("Unsupported operation")

    monkeypatch.setattr(openvino_encoder, "cached_graph", fail)
    assert torch.equal(read_all(cached(encoder, photos, tmp_path / "other")), expected)
    assert "RuntimeError: Unsupported operation). torch is used instead." in caplog.text


def test_damaged_rows_are_encoded_again(encoder, encoded, photos, tmp_path):
    whole = read_all(cached(encoder, photos, tmp_path))
    (rows,) = tmp_path.glob("*/features.rows")
    with rows.open("r+b") as file:
        file.seek(rows.stat().st_size // 2)
        file.write(b"damaged")
    encoded.clear()
    plan = plan_features(encoder, photos, tmp_path, CONFIG)
    assert (plan.missing, plan.remove_damaged(), plan.missing) == (0, 1, 1)
    assert torch.equal(read_all(plan.run()), whole)
    assert encoded == [1]


def test_full_disk_is_refused_before_encoding(encoder, encoded, photos, tmp_path, monkeypatch):
    plans = [
        plan_features(encoder, photos, tmp_path / "new" / "cache", CONFIG),
        plan_pixels(encoder.preprocessing, photos[:2], tmp_path / "new" / "cache", workers=0),
    ]
    row = 5 * encoder.positions * encoder.feature_size * 2
    assert plans[0].bytes_needed == 9 * row
    assert plans[1].bytes_needed == 2 * 32 * 32 * 3
    needed = sum(plan.bytes_needed for plan in plans)
    usage = shutil.disk_usage(tmp_path)._replace(free=needed - 1)
    monkeypatch.setattr(row_extraction.shutil, "disk_usage", lambda path: usage)
    plans[0].run()  # fits alone
    with pytest.raises(OutputError, match=r"features of 11 images need .* are free in"):
        row_extraction.require_space(
            [plan_features(encoder, photos, tmp_path / "other", CONFIG), plans[1]]
        )
    monkeypatch.setattr(row_extraction.shutil, "disk_usage", lambda path: usage._replace(free=9))
    encoded.clear()
    with pytest.raises(OutputError, match=r"9 images need .* 9 bytes are free"):
        cached(encoder, photos, tmp_path / "third")
    assert encoded == []


def test_unusable_cache_directory_is_refused(encoder, photos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="use another cache"):
        cached(encoder, photos, tmp_path / "file")


def test_pixels_are_those_of_the_loader(encoder, images, tmp_path):
    paths = list(map(Path, images))
    rows = plan_pixels(encoder.preprocessing, paths, tmp_path, batch_size=3, workers=0).run()
    loader = ImageLoader(encoder.preprocessing, 1, 0)
    for place, batch in enumerate(loader.batches(images)):
        if not batch.errors[0]:
            expected = batch.pixels[0].permute(1, 2, 0).reshape(-1, 3)
            assert np.array_equal(rows.read(torch.tensor([place]))[0], expected)
