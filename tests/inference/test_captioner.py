"""The captioner: one image, lists, folders, ensembles, and models by name."""

import base64
import copy
import io
import itertools
import os
import threading
from dataclasses import replace
from pathlib import Path

import jaxtyping
import numpy as np
import pandas
import pytest
import torch
from datasets import Dataset
from datasets import Image as DatasetImage
from PIL import Image
from small_captioner import small_checkpoint
from stand_in_worker import worker_where

from captioning.decoding import BeamSearch, Greedy, Sampling
from captioning.errors import CheckpointError, ConfigError, DataError, ImageError, SearchError
from captioning.images import worker_pool
from captioning.images.decode import read_image
from captioning.inference import captioner as module
from captioning.inference.captioner import Captioner
from captioning.text.vocabulary import Vocabulary

DAMAGED = {3, 6, 7}


@pytest.fixture
def as_users(monkeypatch):
    """Turn off the type checks that only tests have."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="module")
def expected(captioner, images):
    """The captions of each image alone; empty for one that cannot be read."""
    return [
        () if number in DAMAGED else captioner.caption(path).captions
        for number, path in enumerate(images)
    ]


@pytest.fixture(scope="module")
def readable(images):
    return [path for number, path in enumerate(images) if number not in DAMAGED]


def texts(results):
    return [result.text for result in results]


def assert_same(found, expected):
    """Batching changes the last bits of a log-probability only."""
    assert [caption.text for caption in found] == [caption.text for caption in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.log_prob == pytest.approx(other.log_prob, abs=1e-3)
        assert one.word_log_probs == pytest.approx(other.word_log_probs, abs=1e-3)


# --- one image --------------------------------------------------------------------------------


def test_caption_is_the_most_probable_of_all_short_ones(captioner, images):
    """The oracle scores every caption of one or two words, step by step."""
    checkpoint = captioner.checkpoint
    vocabulary, model = checkpoint.vocabulary, checkpoint.model
    special = {vocabulary.pad, vocabulary.bos, vocabulary.eos, vocabulary.unk}
    words = [word for word in range(len(vocabulary)) if word not in special]
    pixels = model.encoder.preprocessing.pixels(read_image(images[0])).unsqueeze(0)

    def log_prob(tokens):
        state, total = model.start(pixels), 0.0
        for before, after in itertools.pairwise((vocabulary.bos, *tokens, vocabulary.eos)):
            log_probs, state = model.decoder.step(torch.tensor([before]), state)
            total += float(log_probs[0, after])
        return total

    with torch.inference_mode():
        best = max([(w,) for w in words] + list(itertools.product(words, words)), key=log_prob)
        method = BeamSearch(width=400, n=400, max_length=2, min_length=1)
        found = next(c for c in captioner(images[0], search=method).captions if c.finished)
        assert found.words == tuple(vocabulary.decode(best))
        assert found.log_prob == pytest.approx(log_prob(best), abs=1e-4)


def test_caption_of_every_kind_of_source_is_the_same(captioner, images, expected):
    path = images[0]
    content = Path(path).read_bytes()
    image = Image.open(path).convert("RGB")
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    named = [path, Path(path), Path(path).as_uri(), os.fspath(path)]
    unnamed = [
        *(content, bytearray(content), memoryview(content), io.BytesIO(content)),
        *(image, array, array / 255, np.asarray(image.convert("RGBA"))),
        *(tensor, tensor.float() / 255, (tensor / 255).requires_grad_()),
        *({"bytes": content, "path": None}, {"bytes": None, "path": path}),
        f"data:image/png;base64,{base64.b64encode(content).decode()}",
    ]
    for source in [*named, *unnamed]:
        assert captioner(source).text == expected[0][0].text
    results = captioner([*named, *unnamed])
    assert set(texts(results)) == {expected[0][0].text}
    assert [result.source for result in results[: len(named)]] == list(map(os.fspath, named))
    assert [result.source for result in results[4:6]] == ["image 4", "image 5"]


def test_several_images_may_come_in_any_container(captioner, readable):
    expected = texts(captioner(list(readable[:3])))
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in readable[:3]]
    tensors = [torch.from_numpy(array.copy()).permute(2, 0, 1) for array in arrays]
    rows = Dataset.from_dict({"image": list(readable[:3])})
    containers = [
        tuple(readable[:3]),
        (path for path in readable[:3]),
        np.stack(arrays),
        torch.stack(tensors) / 255,
        np.array(readable[:3]),
        np.array(readable[:3], dtype=object),
        pandas.Series(readable[:3], index=[7, 8, 9]),
        pandas.Series(arrays),
        pandas.Series(readable[:3], dtype="category"),
        rows["image"],
        rows.cast_column("image", DatasetImage())["image"],
        rows.cast_column("image", DatasetImage(decode=False))["image"],
        [readable[0], arrays[1], tensors[2]],
    ]
    for container in containers:
        assert texts(captioner(container, batch_size=2)) == expected
    assert captioner([]) == captioner(iter(())) == []


def test_pillow_image_of_any_mode_equals_its_file(captioner, tmp_path):
    color = Image.fromarray(np.random.default_rng(5).integers(0, 256, (9, 12, 3), np.uint8))
    color = color.resize((60, 45))
    rotated = Image.Exif()
    rotated[0x0112] = 6
    images = {
        **{mode: color.convert(mode) for mode in ("1", "L", "P", "LA", "RGBA", "CMYK", "I", "F")},
        "I;16": Image.fromarray(np.asarray(color.convert("L")).astype(np.uint16) * 257),
        "rotated": color,
    }
    for name, image in images.items():
        path = tmp_path / f"{name}.tiff"
        image.save(path, exif=rotated if name == "rotated" else Image.Exif())
        opened = Image.open(path)
        assert captioner(opened).text == captioner(path).text == captioner(path.read_bytes()).text


def test_folder_given_as_an_image_names_caption_folder(captioner, tmp_path):
    with pytest.raises(ImageError, match=r"it is a folder\. Use caption_folder\."):
        captioner(tmp_path)


def test_files_may_be_urls_but_not_images(captioner, readable, as_users):
    urls = [Path(readable[0]).as_uri(), "file:///no/such.png"]
    first, second = captioner.caption_files(urls, workers=0)
    assert first.text == captioner(readable[0]).text
    assert second.error == "cannot fetch 'file:///no/such.png': no such file. Check the URL."
    with pytest.raises(ConfigError, match=r"found Image\. For images in memory, call captioner"):
        next(captioner.caption_files([Image.new("RGB", (8, 8))], workers=0))


def test_closed_image_and_file_are_named_as_closed(captioner, readable):
    with Image.open(readable[0]) as image, Path(readable[0]).open("rb") as file:
        pass
    for source in (image, file):
        with pytest.raises(ImageError, match=r"it is closed or damaged\. Open it again\."):
            captioner(source)


def test_url_that_cannot_be_fetched_names_the_reason(captioner):
    (result,) = captioner(["http://127.0.0.1:1/a.jpg"])
    assert result.error.startswith("cannot fetch 'http://127.0.0.1:1/a.jpg': 127.0.0.1:1 refuses")
    with pytest.raises(ImageError, match=r"unknown protocol 'htp'\. Did you mean 'http'"):
        captioner("htp://host/a.jpg")


def test_caption_fields_agree_with_each_other(captioner, images):
    result = captioner.caption(images[0], search=BeamSearch(width=4, n=4, max_length=6))
    assert len({caption.text for caption in result.captions}) == 4
    log_probs = [caption.log_prob for caption in result.captions]
    assert log_probs == sorted(log_probs, reverse=True)
    assert (result.text, result.log_prob) == (result.captions[0].text, log_probs[0])
    for caption in result.captions:
        assert caption.text == " ".join(caption.words)
        assert len(caption.word_log_probs) == len(caption.words)
        assert sum(caption.word_log_probs) >= caption.log_prob - 1e-4
        assert "<unk>" not in caption.words


@pytest.mark.parametrize(("image", "found"), [(None, "None"), (5, "int"), ({"a.jpg"}, "set")])
def test_caption_of_another_type_names_the_type(captioner, image, found, as_users):
    with pytest.raises(ImageError, match=f"from {found}") as error:
        captioner(image)
    assert "damaged" not in str(error.value)
    assert "list" in str(error.value)


@pytest.mark.parametrize("search", ["beam", "", BeamSearch])
def test_search_of_another_type_raises(captioner, images, search, as_users):
    with pytest.raises(SearchError, match=r"BeamSearch\(width=5\)"):
        captioner.caption(images[0], search=search)


def test_caption_of_unreadable_image_raises(captioner, images):
    for source, message in [
        (images[3], "image4"),
        (Image.new("RGB", (0, 7)), "0 x 7 pixels"),
        ("no such.jpg", "no such file"),
    ]:
        with pytest.raises(ImageError, match=message):
            captioner(source)


# --- lists and folders ------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_damaged_images_change_no_other_result(captioner, images, expected, batch_size, workers):
    results = list(captioner.caption_files(images, batch_size=batch_size, workers=workers))
    listed = captioner(images, batch_size=batch_size)
    assert len(set(texts(results))) >= len(images) - 4  # a swapped caption would be noticed
    for some in (results, listed):
        assert [result.source for result in some] == images
        for number, result in enumerate(some):
            assert_same(result.captions, expected[number])
            assert result.ok == (number not in DAMAGED) == bool(result.captions)
            assert result.ok or images[number] in result.error


def test_batch_of_damaged_images_only_has_errors(captioner, images):
    paths = [images[3], images[7], images[0]]
    results = list(captioner.caption_files(paths, batch_size=2, workers=0))
    assert [result.ok for result in results] == [False, False, True]
    assert [result.ok for result in captioner(paths, batch_size=2)] == [False, False, True]
    assert list(captioner.caption_files([], workers=0)) == captioner([]) == []


def test_image_that_crashes_its_worker_fails_alone(captioner, readable, monkeypatch):
    expected = texts(captioner.caption_files(readable, workers=0))
    monkeypatch.setattr(worker_pool, "WORKER_CODE", worker_where("image5.png", "os._exit(9)"))
    results = list(captioner.caption_files(readable, batch_size=2, workers=2))
    assert "image5.png" in results[3].error
    assert texts(results) == [*expected[:3], "", *expected[4:]]


def test_abandoned_run_leaves_no_worker(captioner, readable):
    results = captioner.caption_files(readable, batch_size=1, workers=2)
    assert next(results).ok
    results.close()
    assert not [thread for thread in threading.enumerate() if "images" in thread.name]


def test_paths_are_read_as_they_are_needed(captioner, readable):
    taken = []

    def endless_paths():
        while True:
            taken.append(readable[len(taken) % len(readable)])
            yield taken[-1]

    results = captioner.caption_files(endless_paths(), batch_size=1, workers=0)
    assert all(result.ok for result in itertools.islice(results, 5))
    assert len(taken) < 1000


def test_folder_is_captioned_in_natural_order(captioner, images, expected, tmp_path):
    folder = tmp_path / "all"
    (folder / "below").mkdir(parents=True)
    for number in (10, 1, 0):  # image11, image2, image1
        os.link(images[number], folder / f"image{number + 1}.png")
    os.link(images[8], folder / "below" / "image9.png")
    (folder / "notes.txt").write_text("none")
    found = texts(captioner.caption_folder(folder, workers=0))
    assert found == [expected[number][0].text for number in (0, 1, 10)]
    deep = texts(captioner.caption_folder(folder, recursive=True, workers=0))
    assert sorted(deep) == sorted([*found, expected[8][0].text])
    for exclude in ("below/", ["below", "*.gif"]):
        left = captioner.caption_folder(folder, recursive=True, exclude=exclude, workers=0)
        assert texts(left) == found
    with pytest.raises(DataError, match="is not a folder"):
        captioner.caption_folder(folder / "image1.png")


def test_one_path_instead_of_a_list_raises(captioner, as_users):
    for paths in ("photos", Path("photos"), b"bytes"):
        with pytest.raises(ConfigError, match="expected a list of paths"):
            list(captioner.caption_files(paths))
    for size in (0, -1):
        with pytest.raises(ConfigError, match="batch_size is"):
            captioner([], batch_size=size)


def test_search_can_differ_for_each_call(captioner, images):
    greedy = captioner.caption(images[0], search=Greedy(max_length=2))
    assert len(greedy.captions[0].words) <= 2
    results = captioner(images[:2], search=Sampling(n=3))
    assert [len(result.captions) for result in results] == [3, 3]


def test_samples_depend_on_seed_and_image_only(readable):
    method = Sampling(n=3, max_length=8)

    def sample(seed, paths, **settings):
        results = Captioner(small_checkpoint(), seed=seed).caption_files(
            paths, search=method, workers=0, **settings
        )
        return {result.source: result.captions for result in results}

    forward = sample(7, readable)
    for source, captions in sample(7, readable[::-1], batch_size=4).items():
        assert_same(captions, forward[source])
    other = sample(8, readable)
    assert any(other[source][0].text != forward[source][0].text for source in other)


# --- models -----------------------------------------------------------------------------------


def test_saved_model_captions_as_before(captioner, model, images):
    loaded = Captioner.from_pretrained(str(model), device="cpu", precision="float32")
    assert loaded.device == torch.device("cpu")
    assert_same(loaded.caption(images[0]).captions, captioner.caption(images[0]).captions)


def test_push_to_hub_uploads_a_whole_model(captioner, images, tmp_path, monkeypatch):
    class Hub:
        def create_repo(self, repo_id, *, private, exist_ok):
            assert (repo_id, private, exist_ok) == ("me/model", True, True)

        def upload_folder(self, *, repo_id, folder_path, delete_patterns):
            assert repo_id == "me/model"
            assert delete_patterns == ["*.safetensors"]  # those that are not uploaded again
            folder_path.rename(tmp_path / "uploaded")
            return "https://hub/me/model"

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert captioner.push_to_hub("me/model", private=True) == "https://hub/me/model"
    loaded = Captioner.from_pretrained(tmp_path / "uploaded", precision="float32")
    assert loaded(images[0]).text == captioner(images[0]).text


def test_hub_id_downloads_and_loads_the_model(model, monkeypatch):
    requested = []

    def download(repo_id, **_):
        requested.append(repo_id)
        return str(model)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert Captioner.from_pretrained("owner/name").checkpoint.info.name == "Small"
    assert requested == ["owner/name"]


def test_unreachable_hub_raises_with_the_reason(monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(CheckpointError, match=r"owner/name.*ConnectionError: no route to host"):
        Captioner.from_pretrained("owner/name")


@pytest.mark.parametrize("name", ["nowhere", "./a/b", "a/b/c", "/a"])
def test_missing_directory_raises_without_the_hub(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", pytest.fail)
    with pytest.raises(CheckpointError, match="model directory"):
        Captioner.from_pretrained(name)


def test_default_model_is_loaded_without_a_name(model, monkeypatch):
    monkeypatch.setattr(module, "DEFAULT_MODEL", model)
    assert Captioner.from_pretrained().checkpoint.search == BeamSearch(width=2, max_length=8)


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_unavailable_device_raises(model, device):
    with pytest.raises(ConfigError, match=f"device '{device}' is not available"):
        Captioner.from_pretrained(model, device=device)


# --- ensembles --------------------------------------------------------------------------------


def test_ensemble_of_equal_models_equals_one_model(captioner, model, readable):
    twice = Captioner.from_pretrained(model, model, precision="float32")
    for path in readable[:3]:
        assert_same(twice.caption(path).captions, captioner.caption(path).captions)


def test_ensemble_with_another_model_changes_captions(captioner, readable, tmp_path):
    other = copy.deepcopy(captioner.checkpoint)
    with torch.no_grad():
        other.model.decoder.W_rw.weight.neg_()
    together = Captioner(captioner.checkpoint, others=[other])
    assert texts(together(readable)) != texts(captioner(readable))
    with pytest.raises(ConfigError, match="ensemble of 2 models"):
        together.save_pretrained(tmp_path / "model")


def test_ensemble_of_incompatible_models_raises(captioner):
    other = copy.deepcopy(captioner.checkpoint)
    words = replace(other, vocabulary=Vocabulary([*other.vocabulary.words[:-1], "zebra"]))
    with pytest.raises(ConfigError, match="model 2 of the ensemble has another vocabulary"):
        Captioner(captioner.checkpoint, others=[words])
    preprocessing = other.model.encoder.preprocessing
    other.model.encoder.preprocessing = replace(preprocessing, size=64)
    with pytest.raises(ConfigError, match="model 2 of the ensemble has another preprocessing"):
        Captioner(captioner.checkpoint, others=[other])
