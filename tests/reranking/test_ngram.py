"""NgramReranker that v makes likely: learned, written, and captions ranked by them."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_captioner import WORDS, small_checkpoint, write_photos
from small_run import TINY

from captioning.bulk.resume import fingerprint
from captioning.checkpoint.checkpoint import load_checkpoint, save_checkpoint
from captioning.cli.main import main
from captioning.decoding import BeamSearch
from captioning.decoding.constraints import TokenConstraints
from captioning.decoding.hypothesis import Hypothesis
from captioning.decoding.search import search
from captioning.errors import CheckpointError, ConfigError, DataError, SearchError
from captioning.evaluation.evaluate import EvaluationConfig, evaluate
from captioning.evaluation.search_sweep import sweep
from captioning.inference.captioner import Captioner
from captioning.metrics import DocumentFrequency, score
from captioning.reranking.consensus import Consensus, ConsensusConfig
from captioning.reranking.ngram import NgramReranker
from captioning.text.vocabulary import Vocabulary

SAID = [
    ["a red dog runs", "the dog runs fast"],
    ["a man sits still", "the old man sits"],
    ["a red ball rolls", "the ball is red"],
    ["a cat sleeps there", "the cat sleeps now"],
]
SPOKEN = [[caption.split() for caption in image] for image in SAID]
VOCABULARY = Vocabulary.build([words for image in SPOKEN for words in image], min_count=1)


def ids(caption, vocabulary=VOCABULARY):
    return tuple(vocabulary.id(word) for word in caption.split())


def learned(vectors=None, **settings):
    vectors = torch.eye(4) if vectors is None else vectors
    return NgramReranker.fit(vectors, SPOKEN, VOCABULARY, **{"ridge": 1e-9, **settings})


def test_agreement_is_cider_where_v_tells_all():
    # With a v of its own each image's phrases are its captions', and CIDEr-D is CIDEr where no
    # caption is longer than another or holds a phrase twice.
    agreement = learned().prepare(3 * torch.eye(4))
    frequency = DocumentFrequency.build(dict(enumerate(SAID)))
    for image in range(4):
        for caption in ("a red dog runs", "the man sits still", "a cat runs fast", "red is a ball"):
            wanted = score({0: caption}, {0: SAID[image]}, document_frequency=frequency).cider
            (found,) = agreement(image, [ids(caption)])
            assert found == pytest.approx(wanted, rel=0.02, abs=0.02)


def test_agreement_weighs_what_is_not_among_the_phrases_as_unseen():
    few = learned(max_ngrams=12)
    assert len(few) == 12
    agreement = few.prepare(torch.eye(4))
    idf = dict(zip(map(tuple, few.tokens.tolist()), few.idf.tolist(), strict=True))
    expected = few.weights.float() * few.scales[:, None]
    said = (
        "a red dog runs",
        "the man sits",
        "ball",
        "zebra cat",
        "a cat cat cat sleeps",
        "dog dog",
    )
    for image, caption in [(image, caption) for image in range(4) for caption in said]:
        total = 0.0
        words = ids(caption)
        for n in range(1, min(len(words), 4) + 1):
            counts = Counter(words[i : i + n] for i in range(len(words) - n + 1))
            rows = [(*gram, *[0] * (4 - n)) for gram in counts]
            u = np.array(
                [
                    count * idf.get(row, math.log(4))
                    for row, count in zip(rows, counts.values(), strict=True)
                ]
            )
            shares = [
                float(expected[few.tokens.tolist().index(list(row)), image]) if row in idf else 0.0
                for row in rows
            ]
            total += u @ shares / np.linalg.norm(u)
        assert agreement(image, [words]) == pytest.approx([2.5 * total], rel=1e-5, abs=1e-9)


def test_an_empty_caption_and_one_that_everybody_says_agree_with_nothing():
    agreement = learned().prepare(torch.eye(4))
    assert agreement(0, [(), ids("a"), ids("the")]) == [0.0, 0.0, 0.0]  # about every image


@pytest.mark.parametrize("at_once", [100, 3, 1])
def test_weights_are_those_of_ridge_regression(at_once, monkeypatch):
    monkeypatch.setattr("captioning.reranking.ngram._AT_ONCE", at_once)  # images
    torch.manual_seed(0)
    vectors = torch.randn(4, 3)
    reranker = learned(vectors, ridge=0.3)
    units = (vectors / vectors.norm(dim=1, keepdim=True)).double().numpy()
    row = reranker.tokens.tolist().index([*ids("red"), 0, 0, 0])
    idf = {1: math.log(4 / 2), "rare": math.log(4)}
    # "red dog runs": a (everybody, 0), red (two images), dog and runs (one)
    first = idf[1] / math.hypot(idf[1], idf["rare"], idf["rare"]) / 2
    ball = idf[1] / math.hypot(idf[1], idf["rare"], idf["rare"]) / 2
    last = idf[1] / math.hypot(idf["rare"], idf["rare"], idf[1]) / 2
    target = np.array([first, 0.0, ball + last, 0.0])
    # ridge regression as least squares with the penalty as further rows
    wide = np.vstack([units, math.sqrt(0.3) * np.eye(3)])
    wanted = np.linalg.lstsq(wide, np.concatenate([target, np.zeros(3)]), rcond=None)[0]
    found = (reranker.weights[row].float() * reranker.scales[row]).numpy()
    assert found == pytest.approx(wanted, abs=np.abs(wanted).max() / 127)


def test_the_largest_phrases_of_known_words_are_learned():
    vocabulary = Vocabulary.build([["red", "dog", "runs", "ball"]], min_count=1)
    reranker = NgramReranker.fit(torch.eye(4), SPOKEN, vocabulary)
    found = {tuple(vocabulary.words[t] for t in row if t) for row in reranker.tokens.tolist()}
    singles = {("red",), ("dog",), ("runs",), ("ball",)}
    assert found == singles | {
        ("red", "dog"),
        ("dog", "runs"),
        ("red", "ball"),
        ("red", "dog", "runs"),
    }
    # Said of half the images, so it comes first; then the largest share, 2/3 of two captions.
    for most, words in ((1, {"red"}), (2, {"red", "ball"})):
        few = NgramReranker.fit(torch.eye(4), SPOKEN, vocabulary, max_ngrams=most)
        assert {vocabulary.words[row[0]] for row in few.tokens.tolist()} == words
        assert few.tokens[:, 1:].sum() == 0


def test_images_without_captions_count_for_nothing():
    vectors = torch.cat([torch.eye(4), torch.full((1, 4), 0.5)])
    found = NgramReranker.fit(vectors, [*SPOKEN, [[]]], VOCABULARY, ridge=1e-9)
    assert found.digest() == learned().digest()


def test_vectors_that_are_not_finite_count_for_nothing():
    vectors = torch.cat([torch.eye(4), torch.full((1, 4), math.inf)])
    found = NgramReranker.fit(vectors, [*SPOKEN, [["a", "dog"]]], VOCABULARY, ridge=1e-9)
    assert found.digest() == learned().digest()


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ([[["a", "dog"]], []], "1 such image"),
        ([[["x"]], [["y"]]], "No phrase of the captions"),
    ],
)
def test_too_little_to_learn_from_is_an_error(said, problem):
    with pytest.raises(DataError, match=problem):
        NgramReranker.fit(torch.eye(2), said, VOCABULARY)


# --- files ------------------------------------------------------------------------------------


def test_they_are_read_as_they_were_written(tmp_path):
    reranker = learned()
    reranker.save(tmp_path / "rerank.safetensors")
    found = NgramReranker.load(tmp_path / "rerank.safetensors", words=len(VOCABULARY), features=4)
    assert found.digest() == reranker.digest()
    assert found.tokens.dtype == torch.long


@pytest.mark.parametrize("part", ["tokens", "weights", "scales", "idf"])
def test_the_digest_is_of_every_part(part):
    reranker = learned()
    changed = getattr(reranker, part).clone()
    changed[-1] = changed[-1] + 1
    assert replace(reranker, **{part: changed}).digest() != reranker.digest()
    assert replace(reranker, unseen=reranker.unseen + 1).digest() != reranker.digest()


def set_to(name, place, value):
    def change(tensors):
        tensors[name][place] = value

    return change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (set_to("tokens", 1, torch.tensor([4, 0, 0, 0])), "a phrase twice"),
        (set_to("tokens", (0, 0), 999), "words that the vocabulary"),
        (set_to("tokens", (0, 0), -1), "words that the vocabulary"),
        (set_to("tokens", (0, 0), 0), "gaps"),
        (set_to("tokens", (0, 3), 5), "gaps"),
        (set_to("idf", 0, -1.0), "idf holds numbers outside"),
        (set_to("unseen", 0, 1e9), "unseen holds numbers outside"),
        (set_to("scales", 0, 1e30), "scales holds numbers outside"),
        (set_to("scales", 0, math.nan), "no finite numbers"),
        (lambda tensors: tensors.pop("idf"), "no phrases for a v of 4"),
        (lambda tensors: tensors.update(more=torch.ones(1)), "no phrases for a v of 4"),
        (lambda tensors: tensors.update(weights=tensors["weights"].float()), "no phrases for"),
        (lambda tensors: tensors.update(tokens=torch.tensor(1)), "no phrases for a v of 4"),
        (lambda tensors: tensors.update(scales=tensors["scales"][:-1].clone()), "no phrases for"),
    ],
)
def test_a_damaged_file_is_refused(change, problem, tmp_path):
    path = tmp_path / "rerank.safetensors"
    learned().save(path)
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=problem) as caught:
        NgramReranker.load(path, words=len(VOCABULARY), features=4)
    assert str(path) in str(caught.value)


def test_phrases_of_another_v_are_refused(tmp_path):
    learned().save(tmp_path / "rerank.safetensors")
    with pytest.raises(CheckpointError, match="a v of 5"):
        NgramReranker.load(tmp_path / "rerank.safetensors", words=len(VOCABULARY), features=5)


# --- in a search ------------------------------------------------------------------------------


class Coin:
    """A decoder that knows three words and one state."""

    def __len__(self):
        return 2

    def select(self, rows):
        return self


def step(tokens, state):
    return torch.tensor([-9.0, 0.4, 0.3, 0.2, 0.1]).clamp_min(1e-9).log().expand(
        len(tokens), -1
    ), state


def found_by(how, agreement):
    return search(step, Coin(), how, TokenConstraints(0, 1), rerank=agreement)


def test_a_beam_is_ranked_by_its_score_and_the_agreement():
    asked = []

    def agreement(image, captions):
        asked.append((image, captions))
        return [image + 0.1 * sum(caption) for caption in captions]

    plain = found_by(BeamSearch(width=6, n=6, length_penalty=0.5), None)
    for weight in (0.01, 1.0, 30.0):
        how = BeamSearch(width=6, n=2, length_penalty=0.5, rerank_weight=weight)
        for image, (before, after) in enumerate(zip(plain, found_by(how, agreement), strict=True)):
            values = {h.tokens: h.score + weight * (image + 0.1 * sum(h.tokens)) for h in before}
            best = sorted(values, key=lambda tokens: -values[tokens])[:2]
            assert [h.tokens for h in after] == best
            assert [h.score for h in after] == pytest.approx([values[tokens] for tokens in best])
            assert all(isinstance(h, Hypothesis) and h.log_prob < 0 for h in after)
    assert {image for image, _ in asked} == {0, 1}
    assert all(len(captions) == 6 for _, captions in asked)


def test_a_search_that_counts_phrases_needs_an_agreement():
    with pytest.raises(SearchError, match="rerank_weight"):
        found_by(BeamSearch(width=2, rerank_weight=1.0), None)


@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan, 1e7])
def test_the_weight_is_a_number(weight):
    with pytest.raises(ConfigError, match="rerank_weight"):
        BeamSearch(rerank_weight=weight)


# --- in a model -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"), 6)


@pytest.fixture(scope="module")
def model(photos):
    """The small model, with phrases that are learned from three photos."""
    plain = small_checkpoint()
    encoder = plain.model.encoder
    pixels = torch.stack([Captioner(plain).pixels(photo) for photo in photos[:3]])
    with torch.inference_mode():
        vectors = encoder(pixels).vector
    said = [[["a", "red", "dog", "runs"]], [["the", "cat", "sleeps"]], [["a", "man", "sits"]]]
    reranker = NgramReranker.fit(vectors, said, plain.vocabulary, ridge=1e-6)
    how = BeamSearch(width=8, max_length=6, length_penalty=0.5, rerank_weight=20.0)
    return replace(plain, search=how, reranker=reranker)


def test_a_captioner_ranks_by_the_phrases_of_the_image(model, photos):
    captioner = Captioner(model)
    vocabulary = model.vocabulary
    pixels = torch.stack([captioner.pixels(photo) for photo in photos])
    with torch.inference_mode():
        agreement = model.reranker.prepare(model.model.encoder(pixels).vector)
    beam = BeamSearch(width=8, n=8, max_length=6, length_penalty=0.5)
    changed = 0
    for image, photo in enumerate(photos):
        every = captioner.caption(photo, search=beam).captions
        words = [tuple(map(vocabulary.id, each.words)) for each in every]
        values = [
            each.log_prob / (len(each.words) + 1) ** 0.5 + 20 * agreed
            for each, agreed in zip(every, agreement(image, words), strict=True)
            if each.finished
        ]
        best = [each for each in every if each.finished][values.index(max(values))]
        found = captioner.caption(photo).captions[0]
        assert found.words == best.words
        assert found.log_prob == pytest.approx(best.log_prob)
        changed += found.words != every[0].words
    assert changed
    together = captioner(photos, batch_size=4)
    assert [each.text for each in together] == [captioner.caption(photo).text for photo in photos]


def test_a_model_keeps_its_phrases(model, photos, tmp_path):
    save_checkpoint(model, tmp_path / "model")
    found = load_checkpoint(tmp_path / "model")
    assert found.reranker.digest() == model.reranker.digest()
    assert found.search == model.search
    assert Captioner(found).caption(photos[0]) == Captioner(model).caption(photos[0])
    assert f"{len(model.reranker)} n-grams" in (tmp_path / "model" / "README.md").read_text()
    save_checkpoint(replace(found, reranker=None, search=BeamSearch()), tmp_path / "model")
    assert not (tmp_path / "model" / "rerank.safetensors").exists()


def test_a_model_whose_phrases_are_missing_is_refused(model, tmp_path):
    save_checkpoint(model, tmp_path / "model")
    (tmp_path / "model" / "rerank.safetensors").unlink()
    with pytest.raises(CheckpointError, match="not all of the model was copied"):
        load_checkpoint(tmp_path / "model")


def test_a_link_to_phrases_that_are_not_there_is_refused(model, tmp_path):
    save_checkpoint(replace(model, search=BeamSearch()), tmp_path / "model")
    path = tmp_path / "model" / "rerank.safetensors"
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"rerank\.safetensors"):
        load_checkpoint(tmp_path / "model")


def test_an_ensemble_asks_the_phrases_of_its_first_model(model, photos):
    other = small_checkpoint()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for weight in other.model.encoder.parameters():
            weight.normal_(0, 0.5)
    captioner = Captioner(model, others=[other])
    alone = [replace(each, reranker=None, search=BeamSearch()) for each in (model, other)]
    pixels = torch.stack([captioner.pixels(photo) for photo in photos])
    with torch.inference_mode():
        both = [each.model.encoder(pixels).vector for each in (model, other)]
    agreement, others = map(model.reranker.prepare, both)
    differing = 0
    how = replace(model.search, rerank_weight=1e3)  # nothing but the agreement counts
    beam = replace(model.search, rerank_weight=0.0, n=8)
    for image, photo in enumerate(photos):
        every = Captioner(alone[0], others=alone[1:]).caption(photo, search=beam).captions
        rivals = [each for each in every if each.finished] or every
        words = [tuple(map(model.vocabulary.id, each.words)) for each in rivals]
        values = agreement(image, words)
        differing += values.index(max(values)) != np.argmax(others(image, words))
        best = captioner.caption(photo, search=how).captions[0].words
        assert words[values.index(max(values))] == tuple(map(model.vocabulary.id, best))
    assert differing


def test_a_search_is_looked_at_before_the_images_are(model, photos, tmp_path):
    captioner = Captioner(replace(model, reranker=None, search=BeamSearch()))
    for ask in (
        lambda: captioner.caption(photos[0], search=model.search),
        lambda: list(captioner.caption_files(photos, search=model.search, workers=0)),
        lambda: sweep(
            captioner, f"coco:{TINY}", split="val", searches=[model.search], cache=tmp_path
        ),
    ):
        with pytest.raises(ConfigError, match="has no n-gram reranker"):
            ask()
    assert not list(tmp_path.iterdir())


def test_neighbours_add_to_what_phrases_say(model, photos):
    words = [[caption.split() for caption in image] for image in SAID]
    with torch.inference_mode():
        pixels = torch.stack([Captioner(model).pixels(photo) for photo in photos])
        vectors = model.model.encoder(pixels).vector
    consensus = Consensus(vectors[:4], words, options=ConsensusConfig(weight=7.0))
    asking = Captioner(model, consensus=consensus)
    beam = replace(model.search, rerank_weight=0.0, n=8)
    agreement = model.reranker.prepare(vectors)
    for image, photo in enumerate(photos):
        every = Captioner(model).caption(photo, search=beam).captions
        tokens = [tuple(map(model.vocabulary.id, each.words)) for each in every]
        near = consensus.agreement(vectors[image], [each.words for each in every])
        values = [
            each.log_prob / (len(each.words) + each.finished) ** 0.5 + 20 * phrases + 7 * others
            for each, phrases, others in zip(every, agreement(image, tokens), near, strict=True)
        ]
        best = max(range(len(every)), key=lambda k: (every[k].finished, values[k]))
        assert asking.caption(photo).captions[0].words == every[best].words


def test_evaluate_refuses_a_search_that_counts_what_is_not_there(model, tmp_path):
    captioner = Captioner(replace(model, reranker=None, search=BeamSearch()))
    output = tmp_path / "captions.json"
    with pytest.raises(ConfigError, match="has no n-gram reranker"):
        evaluate(
            captioner, f"coco:{TINY}", search=model.search, config=EvaluationConfig(output=output)
        )


def test_a_model_whose_search_counts_what_it_has_not_is_not_written(model, tmp_path):
    with pytest.raises(ConfigError, match="could not be loaded again"):
        save_checkpoint(replace(model, reranker=None), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_models_of_other_phrases_have_other_fingerprints(model):
    plain = replace(model, reranker=None)
    other = replace(model.reranker, unseen=1.0)
    found = {fingerprint([each]) for each in (model, plain, replace(model, reranker=other))}
    assert len(found) == 3


def run(*arguments):
    """Return the exit code of the command line."""
    with pytest.raises(SystemExit) as stop:
        main([*map(str, arguments)])
    return stop.value.code


def test_a_search_that_counts_phrases_is_refused_of_a_model_without(
    model, photos, tmp_path, capsys
):
    save_checkpoint(replace(model, reranker=None, search=BeamSearch()), tmp_path / "model")
    arguments = ["caption", str(photos[0]), "--model", str(tmp_path / "model")]
    output = tmp_path / "out.jsonl"
    assert run(*arguments, "--rerank-weight", 3, "-o", output) == 2
    assert "has no n-gram reranker" in capsys.readouterr().err
    assert not output.exists()
    assert run(*arguments, "--rerank-weight", 0) == 0


def test_phrases_can_be_weighed_from_the_command_line(model, photos, tmp_path, capsys):
    save_checkpoint(model, tmp_path / "model")
    arguments = ["caption", *map(str, photos), "--model", str(tmp_path / "model")]
    captioner = Captioner(model)
    for weight in (0.0, 20.0, 1000.0):
        assert run(*arguments, "--rerank-weight", weight) == 0
        how = replace(model.search, rerank_weight=weight)
        said = capsys.readouterr().out
        for photo in photos:
            assert captioner.caption(photo, search=how).text in said


def test_the_small_model_has_the_words_that_are_used_here():
    assert {"a", "red", "dog", "runs", "the", "cat", "sleeps", "man", "sits"} <= set(WORDS)
