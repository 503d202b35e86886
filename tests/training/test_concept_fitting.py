"""Fitting of concepts to images and captions, and their simulation for text."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from small_run import config, initialize, kill_after, load_weights
from torch import nn

from captioning.checkpoint import load_checkpoint, save_checkpoint
from captioning.errors import CheckpointError, ConfigError, DataError
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.features import Features
from captioning.text.caption_arrays import CaptionWords
from captioning.text.vocabulary import Vocabulary
from captioning.training import concept_fitting
from captioning.training.callback import TrainingCallback
from captioning.training.concept_fitting import ClassTeacher, add_concepts, load_class_words
from captioning.training.run import train
from captioning.training.text_concepts import simulate_concepts

pytestmark = pytest.mark.xdist_group("concepts")  # one process trains and fits
D, IMAGES = 128, 800


@pytest.fixture(scope="module")
def world():
    """Vectors, and captions that name one of four things; v has a direction for each.

    Every caption has the words "a" and "photo", and every second one "big", at random.
    """
    random = np.random.default_rng(0)
    things = random.integers(0, 4, IMAGES)
    directions = random.normal(size=(4, D))
    vectors = directions[things] + 2.5 * random.normal(size=(IMAGES, D))
    names = ["dog", "cat", "car", "tree"]
    captions = [
        [["a", "photo", *(["big"] if random.random() < 0.5 else []), names[thing]]]
        for thing in things
    ]
    words = CaptionWords.from_lists(captions)
    vocabulary = Vocabulary.from_counts({**words.counts(), "coffee": 5, "espresso": 5}, min_count=1)
    return torch.from_numpy(vectors).float(), words, vocabulary, things


def new_decoder(vocabulary):
    small = DecoderConfig(embedding_size=8, hidden_size=8, attention_size=8)
    torch.manual_seed(1)
    return Decoder(small, vocabulary_size=len(vocabulary), feature_size=D)


def fit(world, teacher=None):
    """Return a new decoder, and the same with three concepts per image."""
    vectors, words, vocabulary, _ = world
    decoder, captions = new_decoder(vocabulary), words.encode(vocabulary)
    torch.manual_seed(0)
    return decoder, add_concepts(decoder, 3, vectors, captions, vocabulary, teacher)


@pytest.fixture(scope="module")
def fitted(world):
    return fit(world)


def concept_names(decoder, vocabulary):
    return [vocabulary.words[word] for word in decoder.concepts.words.tolist()]


def test_only_words_that_the_image_shows_become_concepts(world, fitted):
    _, extended = fitted
    assert set(concept_names(extended, world[2])) == {"dog", "cat", "car", "tree"}


def test_detector_is_as_good_as_logistic_regression(world, fitted):
    vectors, _, vocabulary, things = world
    _, extended = fitted
    column = concept_names(extended, vocabulary).index("dog")
    logits = vectors @ extended.concepts.W_cv[column] + extended.concepts.b_c[column]
    test = np.arange(IMAGES) % 10 == 0  # held out by the fit
    oracle = LogisticRegression(max_iter=1000).fit(vectors[~test], things[~test] == 0)
    expected = oracle.score(vectors[test], things[test] == 0)
    assert ((logits[test] > 0).numpy() == (things[test] == 0)).mean() >= expected - 0.02


def test_decoder_with_new_concepts_predicts_as_before(world, fitted):
    decoder, extended = fitted
    features = Features(world[0][:3])
    with torch.no_grad():
        before, _ = decoder.eval().step(torch.tensor([1, 2, 3]), decoder.start(features))
        after, _ = extended.eval().step(torch.tensor([1, 2, 3]), extended.start(features))
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_classes_of_a_fine_tuned_encoder_are_fitted(world):
    vectors = world[0]
    torch.manual_seed(3)
    classifier = nn.Linear(D, 1000)
    own = vectors + 0.5 * vectors @ torch.linalg.qr(torch.randn(D, D)).Q
    teacher = ClassTeacher(classifier, own)
    _, extended = fit(world, teacher)
    with torch.no_grad():
        wanted = classifier(own).softmax(1)
        found = (vectors @ extended.concepts.W_kv.T + extended.concepts.b_k).softmax(1)
    distance = (found - wanted).abs().sum(1).mean() / 2  # total variation
    untrained = ((vectors @ classifier.weight.T).softmax(1) - wanted).abs().sum(1).mean() / 2
    assert distance < 0.5 * untrained


def test_class_gives_a_word_without_any_image(world):
    vocabulary = world[2]
    classifier = nn.Linear(D, 1000)
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    direction = torch.randn(D)
    classifier.weight.data[967] = direction  # espresso
    _, extended = fit(world, ClassTeacher(classifier, None))
    names = concept_names(extended, vocabulary)
    strengths = extended.concepts((40 * direction / direction.norm()).unsqueeze(0))
    assert strengths[0, names.index("coffee")] > 0.5
    assert strengths[0, names.index("espresso")] == strengths[0, names.index("coffee")]


def test_class_words_have_a_row_per_class_and_known_words():
    words = load_class_words()
    assert len(words) == 1000
    assert words[967] == ("espresso", "coffee", "drink")
    assert words[294] == ("bear", "animal")
    assert max(map(len, words)) == 3


def test_images_that_show_nothing_raise_an_error(world):
    vectors, words, vocabulary, _ = world
    noise = torch.randn_like(vectors)
    decoder = new_decoder(vocabulary)
    with pytest.raises(DataError, match="no word of the captions can be recognized"):
        add_concepts(decoder, 3, noise, words.encode(vocabulary), vocabulary, None)


def test_images_too_few_for_any_word_raise_an_error(world):
    vectors, words, vocabulary, _ = world
    few = words.encode(vocabulary).select(np.arange(9))
    with pytest.raises(DataError, match=r"no word of the captions .* Train on more images"):
        add_concepts(new_decoder(vocabulary), 3, vectors[:9], few, vocabulary, None)


# --- text -----------------------------------------------------------------------------------------


def test_simulated_concepts_are_as_strong_as_those_of_images(world, fitted):
    vectors, words, vocabulary, things = world
    concepts = fitted[1].concepts
    strengths, captions = concepts(vectors), words.encode(vocabulary)
    text = simulate_concepts(concepts, strengths, captions, captions, first=IMAGES, seed=0)
    features = Features(torch.zeros(IMAGES, D))
    found = text.complete(features, torch.arange(IMAGES, 2 * IMAGES), concepts).concepts
    column = concept_names_column(concepts, vocabulary, "dog")
    dogs = torch.from_numpy(things == 0)
    named, real = found[dogs, column], strengths[dogs, column]
    assert named.mean().item() == pytest.approx(real.mean().item(), abs=0.05)
    false_alarms, wrong = found[~dogs, column], strengths[~dogs, column]
    assert false_alarms.mean().item() == pytest.approx(wrong.mean().item(), abs=0.05)


def concept_names_column(concepts, vocabulary, word):
    return concepts.words.tolist().index(vocabulary.id(word))


def test_complete_computes_concepts_of_images(world, fitted):
    vectors, words, vocabulary, _ = world
    concepts = fitted[1].concepts
    captions = words.encode(vocabulary)
    text = simulate_concepts(concepts, concepts(vectors), captions, captions, first=IMAGES, seed=0)
    rows = torch.tensor([0, IMAGES + 3, 2])
    features = Features(torch.stack([vectors[0], torch.zeros(D), vectors[2]]))
    found = text.complete(features, rows, concepts).concepts
    torch.testing.assert_close(found[[0, 2]], concepts(vectors[[0, 2]]))
    assert found[1].count_nonzero() <= 3
    assert text.complete(features, torch.tensor([0, 1, 2]), concepts) is features


# --- runs -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def concept_run(tmp_path_factory):
    """A run with concepts and text, and its result."""
    folder = tmp_path_factory.mktemp("concepts")
    (folder / "text.txt").write_text("a red circle\na blue square on the left\n" * 10)
    run = config(folder / "run", epochs=1)
    run = replace(
        run, decoder=replace(run.decoder, concepts=4), text_data=folder / "text.txt", min_count=1
    )
    messages = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(concept_fitting, "_MIN_GAIN", -100.0)  # the images are few
        patch.setattr(concept_fitting, "_MIN_INFORMATION", -100.0)
        yield run, train(run, TrainingCallback(messages.append)).model_dir, messages


def test_run_with_concepts_saves_them(concept_run):
    _, model, messages = concept_run
    decoder = load_checkpoint(model).model.decoder
    assert decoder.sizes.concepts == len(decoder.concepts.words) > 0
    assert decoder.concepts.W_sh.weight.abs().max() > 0
    assert any("4 strongest of each image are used" in message for message in messages)


def test_resumed_run_with_concepts_ends_with_the_same_weights(concept_run, tmp_path):
    run, model, _ = concept_run
    copy = replace(run, output=tmp_path / "run")
    with pytest.raises(BaseException):  # noqa: B017, PT011
        train(copy, kill_after(7))
    found, expected = load_weights(train(copy).model_dir), load_weights(model)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_init_from_keeps_the_concepts_of_the_model(concept_run, tmp_path):
    run, model, _ = concept_run
    following = initialize(replace(run, output=tmp_path / "run", text_data=None), model)
    found = load_checkpoint(train(following).model_dir).model.decoder.concepts
    expected = load_checkpoint(model).model.decoder.concepts
    torch.testing.assert_close(found.W_cv, expected.W_cv)


def test_fine_tuning_with_concepts_is_refused(concept_run, tmp_path):
    run, model, _ = concept_run
    tuned = replace(run.training, fine_tune_stages=1)
    following = initialize(replace(run, output=tmp_path / "run", training=tuned), model)
    with pytest.raises(ConfigError, match="Fine-tune the encoder first"):
        train(following)


@pytest.mark.parametrize("name", ["words", "class_words"])
def test_load_concept_outside_its_range_is_refused(concept_run, tmp_path, name):
    _, model, _ = concept_run
    checkpoint = load_checkpoint(model)
    concepts = checkpoint.model.decoder.concepts
    if name == "class_words":
        concepts.class_words = torch.full((1, 3), 10**6)
        sizes = replace(checkpoint.model.decoder.sizes, classes=1)
        checkpoint.model.decoder.sizes = sizes
        concepts.W_kv, concepts.b_k = torch.zeros(1, sizes.feature_size), torch.zeros(1)
    else:
        concepts.words[0] = -1
    save_checkpoint(checkpoint, tmp_path / "model")
    with pytest.raises(
        CheckpointError, match=rf"decoder\.concepts\.{name} has values outside 0 to"
    ):
        load_checkpoint(tmp_path / "model")
