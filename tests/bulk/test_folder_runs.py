"""A folder run loses nothing: what is damaged is named, what is good is captioned, in order."""

import threading

import pytest
import torch
from PIL import Image
from small_captioner import small_checkpoint, write_photos
from stand_in_worker import worker_where

from captioning.decoding import Sampling
from captioning.errors import CheckpointError, ConfigError, ImageError
from captioning.images import worker_pool as pool
from captioning.inference.captioner import Captioner


@pytest.fixture(scope="module")
def captioner():
    return Captioner(small_checkpoint())


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"), 11)


def texts(results):
    return [result.text for result in results]


def assert_same(found, expected):
    assert [caption.text for caption in found] == [caption.text for caption in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.log_prob == pytest.approx(other.log_prob, abs=1e-3)
        assert one.word_log_probs == pytest.approx(other.word_log_probs, abs=1e-3)


def test_each_photo_alone_has_the_caption_it_has_among_others(captioner, photos):
    alone = [captioner.caption(photo).captions for photo in photos]
    assert len({captions[0].text for captions in alone}) > 4  # the photos do differ
    for size in (1, 3, 16):
        together = list(captioner.caption_files(photos, batch_size=size, workers=0))
        assert [result.source for result in together] == [str(photo) for photo in photos]
        for result, expected in zip(together, alone, strict=True):
            assert_same(result.captions, expected)


def test_workers_and_damaged_neighbours_change_neither_captions_nor_order(
    captioner, photos, tmp_path
):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"")
    mixed = [broken, *photos[:4], tmp_path / "missing.jpg", *photos[4:], broken]
    expected = texts(captioner.caption_files(photos, workers=0))
    for workers in (0, 2):
        results = list(captioner.caption_files(mixed, batch_size=3, workers=workers))
        assert [result.source for result in results] == [str(path) for path in mixed]
        assert texts(result for result in results if result.ok) == expected
        assert [place for place, result in enumerate(results) if result.error] == [0, 5, 13]
        assert "it is empty" in results[0].error
        assert "missing.jpg does not exist" in results[5].error


def test_a_batch_of_nothing_but_damaged_images_is_passed(captioner, photos, tmp_path):
    empty = tmp_path / "empty.jpg"
    empty.write_bytes(b"")
    results = list(captioner.caption_files([empty, empty, photos[0]], batch_size=2, workers=0))
    assert [result.ok for result in results] == [False, False, True]
    assert list(captioner.caption_files([], workers=0)) == []


def test_a_image_that_kills_its_worker_costs_no_other(captioner, photos, monkeypatch):
    expected = texts(captioner.caption_files(photos, workers=0))
    monkeypatch.setattr(pool, "START", worker_where("photo5.jpg", "os._exit(9)"))
    results = list(captioner.caption_files(photos, batch_size=2, workers=2))
    assert [result.source for result in results] == [str(photo) for photo in photos]
    assert "photo5.jpg made the process that read it crash" in results[4].error
    assert texts(results) == [*expected[:4], "", *expected[5:]]


def test_a_run_that_is_left_early_leaves_no_worker_behind(captioner, photos):
    results = captioner.caption_files(photos, batch_size=1, workers=2)
    assert next(results).ok
    results.close()
    assert not [thread for thread in threading.enumerate() if "images" in thread.name]


def test_the_paths_are_read_as_they_are_needed(captioner, photos):
    taken = []

    def endless():
        while True:
            taken.append(photos[len(taken) % len(photos)])
            yield taken[-1]

    results = captioner.caption_files(endless(), batch_size=1, workers=0)
    for _ in range(5):
        assert next(results).ok
    assert len(taken) < 1000


def test_sampled_captions_depend_on_seed_and_photo_not_on_the_neighbours(photos):
    how = Sampling(n=3, max_length=8)
    captioner = Captioner(small_checkpoint(), seed=7)
    forth = {r.source: r.captions for r in captioner.caption_files(photos, search=how, workers=0)}
    back = captioner.caption_files(photos[::-1], search=how, batch_size=4, workers=0)
    for result in back:
        assert_same(result.captions, forth[result.source])
    assert_same(captioner.caption(photos[3], search=how).captions, forth[str(photos[3])])
    other = Captioner(small_checkpoint(), seed=8)
    again = {r.source: r.captions for r in other.caption_files(photos, search=how, workers=0)}
    assert any(again[s][0].text != forth[s][0].text for s in again)


def test_images_come_from_wherever_they_are(captioner, photos):
    expected = captioner.caption(photos[0]).text
    with Image.open(photos[0]) as image, photos[0].open("rb") as file:
        for source in (str(photos[0]), photos[0].read_bytes(), file, image):
            assert captioner.caption(source).text == expected
    with pytest.raises(ImageError, match="does not exist"):
        captioner.caption("no such.jpg")


def test_many_images_of_mixed_kinds_are_captioned_in_order(captioner, photos):
    mixed = [photos[0], b"damaged", photos[1].read_bytes()]
    results = captioner(mixed, batch_size=2)
    expected = [captioner.caption(photos[0]).text, "", captioner.caption(photos[1]).text]
    assert texts(results) == expected
    assert "begins with b'damaged'" in results[1].error or "damaged" in results[1].error


def test_a_saved_model_captions_as_before(captioner, photos, tmp_path):
    captioner.save_pretrained(tmp_path / "model")
    again = Captioner.from_pretrained(tmp_path / "model")
    assert_same(again.caption(photos[0]).captions, captioner.caption(photos[0]).captions)
    assert Captioner.from_pretrained(str(tmp_path / "model")).device == torch.device("cpu")


def test_a_model_that_is_nowhere_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        Captioner.from_pretrained(tmp_path / "nowhere")


def test_a_hub_that_cannot_be_reached_is_told(monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(
        CheckpointError, match=r"no model directory owner/name, .*\(ConnectionError: no route to ho"
    ):
        Captioner.from_pretrained("owner/name")


def test_a_model_of_the_hub_is_downloaded_and_loaded(captioner, tmp_path, monkeypatch):
    captioner.save_pretrained(tmp_path / "cached")
    asked = []

    def download(repo_id, **_):
        asked.append(repo_id)
        return str(tmp_path / "cached")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert Captioner.from_pretrained("owner/name").checkpoint.info.name == "Small"
    assert asked == ["owner/name"]


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="device 'nonsense' is not available"):
        Captioner.from_pretrained(device="nonsense")
