import copy
import io
import itertools
import os
from dataclasses import replace
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image

from captioning.decoding import BeamSearch, Greedy, Sampling
from captioning.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    ImageError,
    SearchError,
)
from captioning.images.decode import read_image
from captioning.inference import captioner as module
from captioning.inference.captioner import Captioner
from captioning.text.vocabulary import Vocabulary

DAMAGED = {3, 6, 7}


@pytest.fixture(scope="module")
def alone(captioner, images):
    """What each image gets by itself; None for those that cannot be read."""
    return [
        None if place in DAMAGED else captioner.caption(path).text
        for place, path in enumerate(images)
    ]


def test_what_is_no_list_of_images_is_refused(captioner, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    for images in ("photos", Path("photos"), b"bytes"):
        with pytest.raises(ConfigError, match="expected a list of paths"):
            list(captioner.caption_files(images))
    for size in (0, -1):
        with pytest.raises(ConfigError, match="batch_size is"):
            captioner([], batch_size=size)


@pytest.mark.parametrize(
    ("image", "found"),
    [(["a.jpg", "a.jpg"], "list"), (None, "None"), (torch.zeros(3, 8, 8), "Tensor")],
)
def test_what_is_no_image_is_told_from_a_damaged_one(captioner, image, found, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    with pytest.raises(ImageError, match=rf"One image was expected: .*; {found} was found") as e:
        captioner.caption(image)
    assert "damaged" not in str(e.value)
    assert "captioner([" in str(e.value)


@pytest.mark.parametrize(
    ("how", "told"), [("beam", "'beam'"), ("", "''"), (BeamSearch, "<class .*BeamSearch'>")]
)
def test_what_is_no_search_is_refused(captioner, images, how, told, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    message = rf"search is {told}; it must be one of Greedy, .* such as BeamSearch\(width=5\)"
    with pytest.raises(SearchError, match=message):
        captioner.caption(images[0], search=how)


def test_a_image_without_pixels_is_refused(captioner):
    with pytest.raises(ImageError, match="has 0 x 7 pixels"):
        captioner.caption(Image.new("RGB", (0, 7)))


def test_captions_tell_the_images_apart(alone):
    """Or the other tests could not see one caption in the place of another."""
    readable = [text for text in alone if text]
    assert len(set(readable)) >= len(readable) - 2


def test_caption_is_the_one_the_network_finds_most_probable(captioner, images):
    """Against every caption of one or two words, scored one step at a time."""
    checkpoint = captioner.checkpoint
    vocabulary, model = checkpoint.vocabulary, checkpoint.model
    special = {vocabulary.pad, vocabulary.bos, vocabulary.eos, vocabulary.unk}
    words = [word for word in range(len(vocabulary)) if word not in special]
    pixels = model.encoder.preprocessing.pixels(read_image(images[0])).unsqueeze(0)

    def score(tokens):
        state, total = model.start(pixels), 0.0
        for before, after in itertools.pairwise((vocabulary.bos, *tokens, vocabulary.eos)):
            log_probs, state = model.decoder.step(torch.tensor([before]), state)
            total += float(log_probs[0, after])
        return total

    with torch.inference_mode():
        every = [(word,) for word in words] + list(itertools.product(words, words))
        best = max(every, key=score)
        how = BeamSearch(width=200, n=200, max_length=2, min_length=1)
        finished = [c for c in captioner.caption(images[0], search=how).captions if c.finished]
        assert finished[0].words == tuple(vocabulary.decode(best))
        assert finished[0].log_prob == pytest.approx(score(best), abs=1e-4)


def test_sources_of_every_kind_get_the_same_caption(captioner, images, alone):
    path = images[0]
    content = Path(path).read_bytes()
    image = Image.open(path).convert("RGB")
    sources = [path, content, io.BytesIO(content), image, np.asarray(image)]
    assert {captioner.caption(source).text for source in sources} == {alone[0]}
    many = captioner(sources)
    assert {result.text for result in many} == {alone[0]}
    assert [result.source for result in many] == [path, *(f"image {n}" for n in range(1, 5))]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 3, 5, 100])
def test_damaged_images_shift_nothing(captioner, images, alone, batch_size, workers):
    """Each image gets the caption that it gets alone, whatever stands beside it."""
    results = list(captioner.caption_files(images, batch_size=batch_size, workers=workers))
    assert [result.source for result in results] == images
    assert [result.text or None for result in results] == alone
    for place, result in enumerate(results):
        assert result.ok == (place not in DAMAGED)
        assert bool(result.captions) == result.ok
        assert result.ok or images[place] in result.error


def test_folder_is_captioned_in_natural_order(captioner, images, alone, tmp_path):
    folder = tmp_path / "all"
    (folder / "below").mkdir(parents=True)
    for place in (10, 1, 0):  # image11, image2, image1
        os.link(images[place], folder / f"image{place + 1}.png")
    os.link(images[8], folder / "below" / "image9.png")
    (folder / "notes.txt").write_text("none")
    texts = [result.text for result in captioner.caption_folder(folder, workers=0)]
    assert texts == [alone[0], alone[1], alone[10]]
    deep = [r.text for r in captioner.caption_folder(folder, recursive=True, workers=0)]
    assert sorted(deep) == sorted([*texts, alone[8]])
    with pytest.raises(DataError, match="is not a folder"):
        captioner.caption_folder(folder / "image1.png")


def test_words_and_probabilities_belong_to_the_text(captioner, images):
    captions = captioner.caption(images[0], search=BeamSearch(width=4, n=4, max_length=6)).captions
    assert len({caption.text for caption in captions}) == 4
    assert [c.log_prob for c in captions] == sorted((c.log_prob for c in captions), reverse=True)
    for caption in captions:
        assert caption.text == " ".join(caption.words)
        assert len(caption.word_log_probs) == len(caption.words)
        assert sum(caption.word_log_probs) >= caption.log_prob - 1e-4
        assert "<unk>" not in caption.words


def test_search_can_be_chosen_for_each_call(captioner, images):
    greedy = captioner.caption(images[0], search=Greedy(max_length=2)).captions[0]
    assert len(greedy.words) <= 2
    many = captioner(images[:2], search=Sampling(n=3))
    assert [len(result.captions) for result in many] == [3, 3]


def test_unreadable_image_raises_when_asked_for_alone(captioner, images):
    with pytest.raises(ImageError, match="image4"):
        captioner.caption(images[3])


def test_push_to_hub_uploads_a_whole_model(captioner, images, alone, tmp_path, monkeypatch):
    class Hub:
        def create_repo(self, repo_id, *, private, exist_ok):
            assert (repo_id, private, exist_ok) == ("me/model", True, True)

        def upload_folder(self, *, repo_id, folder_path, delete_patterns):
            assert repo_id == "me/model"
            assert delete_patterns == ["*.safetensors"]  # what was there and is not sent anew
            folder_path.rename(tmp_path / "uploaded")
            return "https://hub/me/model"

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert captioner.push_to_hub("me/model", private=True) == "https://hub/me/model"
    loaded = Captioner.from_pretrained(tmp_path / "uploaded")
    assert loaded.caption(images[0]).text == alone[0]


@pytest.mark.parametrize("name", ["nowhere", "./a/b", "a/b/c", "/a"])
def test_path_that_is_no_hub_id_asks_no_hub(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", pytest.fail)
    with pytest.raises(CheckpointError, match="There is no model directory"):
        Captioner.from_pretrained(name)


def test_default_model_is_the_one_in_the_package(model, monkeypatch):
    monkeypatch.setattr(module, "DEFAULT_MODEL", model)
    assert Captioner.from_pretrained().checkpoint.search == BeamSearch(width=3, max_length=8)


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_device_that_is_not_there_is_said(model, device):
    with pytest.raises(ConfigError, match=f"device '{device}' is not available"):
        Captioner.from_pretrained(model, device=device)


def test_models_that_choose_together_say_what_the_mean_finds_best(captioner, model, images):
    """Two equal models are one; another one changes what is said of some image."""
    path = images[0]
    twice = Captioner.from_pretrained(model, model)
    assert twice.caption(path).captions[0].words == captioner.caption(path).captions[0].words
    assert twice.caption(path).log_prob == pytest.approx(captioner.caption(path).log_prob, abs=1e-4)
    other = copy.deepcopy(captioner.checkpoint)
    with torch.no_grad():
        other.model.decoder.W_rw.weight.neg_()
    readable = [path for place, path in enumerate(images) if place not in DAMAGED]
    together = Captioner(captioner.checkpoint, others=[other])
    assert [together.caption(path).text for path in readable] != [
        captioner.caption(path).text for path in readable
    ]


def test_models_that_do_not_go_together_are_refused(captioner):
    other = copy.deepcopy(captioner.checkpoint)
    words = replace(other, vocabulary=Vocabulary([*other.vocabulary.words[:-1], "zebra"]))
    with pytest.raises(ConfigError, match="model 2 of the ensemble has another vocabulary"):
        Captioner(captioner.checkpoint, others=[words])
    preprocessing = other.model.encoder.preprocessing
    other.model.encoder.preprocessing = replace(preprocessing, size=32)
    with pytest.raises(ConfigError, match="model 2 of the ensemble has another preprocessing"):
        Captioner(captioner.checkpoint, others=[other])
