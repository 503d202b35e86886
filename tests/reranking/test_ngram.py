"""N-gram reranking: fitting, storing, and ranking hypotheses."""

import math
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_captioner import small_checkpoint, write_photos
from small_run import TINY

from captioning.bulk.resume import fingerprint
from captioning.checkpoint import load_checkpoint, save_checkpoint
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
from captioning.text.caption_arrays import CaptionWords
from captioning.text.vocabulary import Vocabulary

SAID = [
    ["a red dog runs", "the dog runs fast"],
    ["a man sits still", "the old man sits"],
    ["a red ball rolls", "the ball is red"],
    ["a cat sleeps there", "the cat sleeps now"],
]
SPOKEN = [[caption.split() for caption in image] for image in SAID]
WORDS = CaptionWords.from_lists(SPOKEN)
VOCABULARY = Vocabulary.build([words for image in SPOKEN for words in image], min_count=1)


def ids(caption, vocabulary=VOCABULARY):
    return tuple(vocabulary.id(word) for word in caption.split())


def fit(vectors=None, **settings):
    vectors = torch.eye(4) if vectors is None else vectors
    return NgramReranker.fit(vectors, WORDS, VOCABULARY, **{"ridge": 1e-9, **settings})


def test_scores_of_images_that_v_identifies_equal_cider():
    # Each image has its own v, so the regression returns the targets. CIDEr-D is CIDEr where all
    # captions have the same length and no n-gram is repeated.
    rerank = fit().prepare(3 * torch.eye(4))
    frequency = DocumentFrequency.build(dict(enumerate(SAID)))
    for image in range(4):
        for caption in ("a red dog runs", "the man sits still", "a cat runs fast", "red is a ball"):
            wanted = score({0: caption}, {0: SAID[image]}, document_frequency=frequency).cider
            (found,) = rerank(image, [ids(caption)])
            assert found == pytest.approx(wanted, rel=0.02, abs=0.02)


def test_scores_give_unknown_ngrams_the_unseen_idf():
    few = fit(max_ngrams=12)
    assert len(few) == 12
    rerank = few.prepare(torch.eye(4))
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
        assert rerank(image, [words]) == pytest.approx([2.5 * total], rel=1e-5, abs=1e-9)


def test_scores_of_empty_and_ubiquitous_captions_are_zero():
    rerank = fit().prepare(torch.eye(4))  # "a" and "the" occur with every image
    assert rerank(0, [(), ids("a"), ids("the")]) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("batch_size", [100, 3, 1])
def test_fit_weights_equal_ridge_regression(batch_size, monkeypatch):
    monkeypatch.setattr("captioning.reranking.ngram._BATCH_SIZE", batch_size)
    torch.manual_seed(0)
    vectors = torch.randn(4, 3)
    reranker = fit(vectors, ridge=0.3)
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


def test_fit_keeps_largest_ngrams_of_known_words():
    vocabulary = Vocabulary.build([["red", "dog", "runs", "ball"]], min_count=1)
    reranker = NgramReranker.fit(torch.eye(4), WORDS, vocabulary)
    found = {tuple(vocabulary.words[t] for t in row if t) for row in reranker.tokens.tolist()}
    singles = {("red",), ("dog",), ("runs",), ("ball",)}
    assert found == singles | {
        ("red", "dog"),
        ("dog", "runs"),
        ("red", "ball"),
        ("red", "dog", "runs"),
    }
    # "red" belongs to half of the images, so it comes first. "ball" has the largest mass.
    for most, words in ((1, {"red"}), (2, {"red", "ball"})):
        few = NgramReranker.fit(torch.eye(4), WORDS, vocabulary, max_ngrams=most)
        assert {vocabulary.words[row[0]] for row in few.tokens.tolist()} == words
        assert few.tokens[:, 1:].sum() == 0


def test_fit_leaves_out_images_without_captions_or_finite_v():
    vectors = torch.cat([torch.eye(4), torch.full((1, 4), 0.5), torch.full((1, 4), math.inf)])
    captions = CaptionWords.from_lists([*SPOKEN, [[]], [["a", "dog"]]])
    assert NgramReranker.fit(vectors, captions, VOCABULARY, ridge=1e-9).digest() == fit().digest()


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ([[["a", "dog"]], []], "1 such image"),
        ([[["x"]], [["y"]]], "no n-gram of the captions"),
    ],
)
def test_fit_too_little_data_raises(said, problem):
    with pytest.raises(DataError, match=problem):
        NgramReranker.fit(torch.eye(2), CaptionWords.from_lists(said), VOCABULARY)


# --- files ------------------------------------------------------------------------------------


def restore(tensors, feature_size=4):
    return NgramReranker.from_tensors(
        tensors, vocabulary_size=len(VOCABULARY), feature_size=feature_size
    )


def test_from_tensors_restores_to_tensors():
    reranker = fit()
    found = restore(reranker.to_tensors())
    assert found.digest() == reranker.digest()
    assert found.tokens.dtype == torch.long


@pytest.mark.parametrize("part", ["tokens", "weights", "scales", "idf"])
def test_digest_depends_on_every_part(part):
    reranker = fit()
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
        (set_to("tokens", 1, torch.tensor([4, 0, 0, 0])), "an n-gram is repeated"),
        (set_to("tokens", (0, 0), 999), "a word id is outside the vocabulary"),
        (set_to("tokens", (0, 0), -1), "a word id is outside the vocabulary"),
        (set_to("tokens", (0, 0), 0), "has an empty position before its last word"),
        (set_to("tokens", (0, 3), 5), "has an empty position before its last word"),
        (set_to("idf", 0, -1.0), "idf has values outside"),
        (set_to("unseen", 0, 1e9), "unseen has values outside"),
        (set_to("scales", 0, 1e30), "scales has values outside"),
        (lambda tensors: tensors.pop("idf"), "image vectors of size 4"),
        (lambda tensors: tensors.update(more=torch.ones(1)), "image vectors of size 4"),
        (lambda tensors: tensors.update(weights=tensors["weights"].float()), "of size 4"),
        (lambda tensors: tensors.update(weights=tensors["weights"][:, :3].clone()), "of size 4"),
        (lambda tensors: tensors.update(tokens=torch.tensor(1)), "image vectors of size 4"),
        (lambda tensors: tensors.update(scales=tensors["scales"][:-1].clone()), "of size 4"),
    ],
)
def test_from_tensors_bad_content_is_refused(change, problem):
    tensors = {name: tensor.clone() for name, tensor in fit().to_tensors().items()}
    change(tensors)
    with pytest.raises(DataError, match=problem):
        restore(tensors)


def test_load_bad_reranker_names_the_file(model, tmp_path):
    save_checkpoint(model, tmp_path / "model")
    path = tmp_path / "model" / "rerank.safetensors"
    for name, value, problem in (
        ("idf", -1, "idf has values outside 0"),
        ("scales", math.nan, "not finite"),
    ):
        tensors = load_file(path)
        save_file(tensors | {name: torch.full_like(tensors[name], value)}, path)
        with pytest.raises(CheckpointError, match=f"{re.escape(str(path))}: .*{problem}"):
            load_checkpoint(tmp_path / "model")


# --- in a search ------------------------------------------------------------------------------


class Coin:
    """A decoder that knows three words and one state."""

    def __len__(self):
        return 2

    def select(self, rows, images=None):
        return self


def step(tokens, state):
    return torch.tensor([-9.0, 0.4, 0.3, 0.2, 0.1]).clamp_min(1e-9).log().expand(
        len(tokens), -1
    ), state


def found_by(how, rerank):
    return search(step, Coin(), how, TokenConstraints(0, 1), rerank=rerank)


def test_beam_search_ranks_by_score_plus_weighted_rerank():
    asked = []

    def rerank(image, captions):
        asked.append((image, captions))
        return [image + 0.1 * sum(caption) for caption in captions]

    plain = found_by(BeamSearch(width=6, n=6, length_penalty=0.5), None)
    for weight in (0.01, 1.0, 30.0):
        how = BeamSearch(width=6, n=2, length_penalty=0.5, rerank_weight=weight)
        for image, (before, after) in enumerate(zip(plain, found_by(how, rerank), strict=True)):
            values = {h.tokens: h.score + weight * (image + 0.1 * sum(h.tokens)) for h in before}
            best = sorted(values, key=lambda tokens: -values[tokens])[:2]
            assert [h.tokens for h in after] == best
            assert [h.score for h in after] == pytest.approx([values[tokens] for tokens in best])
            assert all(isinstance(h, Hypothesis) and h.log_prob < 0 for h in after)
    assert {image for image, _ in asked} == {0, 1}
    assert all(len(captions) == 6 for _, captions in asked)


def test_beam_search_rerank_weight_needs_rerank_function():
    with pytest.raises(SearchError, match="rerank_weight"):
        found_by(BeamSearch(width=2, rerank_weight=1.0), None)


@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan, 1e7])
def test_rerank_weight_out_of_range_is_refused(weight):
    with pytest.raises(ConfigError, match="rerank_weight"):
        BeamSearch(rerank_weight=weight)


# --- in a model -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"), 6)


@pytest.fixture(scope="module")
def model(photos):
    """The small model, with n-gram reranking fitted to three images."""
    plain = small_checkpoint()
    encoder = plain.model.encoder
    pixels = torch.stack([Captioner(plain).read_pixels(photo) for photo in photos[:3]])
    with torch.inference_mode():
        vectors = encoder(pixels).vector
    said = [[["a", "red", "dog", "runs"]], [["the", "cat", "sleeps"]], [["a", "man", "sits"]]]
    reranker = NgramReranker.fit(
        vectors, CaptionWords.from_lists(said), plain.vocabulary, ridge=1e-6
    )
    how = BeamSearch(width=8, max_length=6, length_penalty=0.5, rerank_weight=20.0)
    return replace(plain, search=how, reranker=reranker)


def test_captioner_reranks_with_scores_of_the_image(model, photos):
    captioner = Captioner(model)
    vocabulary = model.vocabulary
    pixels = torch.stack([captioner.read_pixels(photo) for photo in photos])
    with torch.inference_mode():
        rerank = model.reranker.prepare(model.model.encoder(pixels).vector)
    beam = BeamSearch(width=8, n=8, max_length=6, length_penalty=0.5)
    changed = 0
    for image, photo in enumerate(photos):
        every = captioner.caption(photo, search=beam).captions
        words = [tuple(map(vocabulary.id, each.words)) for each in every]
        values = [
            each.log_prob / (len(each.words) + 1) ** 0.5 + 20 * value
            for each, value in zip(every, rerank(image, words), strict=True)
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


def test_checkpoint_round_trip_keeps_reranker(model, photos, tmp_path):
    save_checkpoint(model, tmp_path / "model")
    found = load_checkpoint(tmp_path / "model")
    assert found.reranker.digest() == model.reranker.digest()
    assert found.search == model.search
    assert Captioner(found).caption(photos[0]) == Captioner(model).caption(photos[0])
    assert f"{len(model.reranker)} n-grams" in (tmp_path / "model" / "README.md").read_text()
    save_checkpoint(replace(found, reranker=None, search=BeamSearch()), tmp_path / "model")
    assert not (tmp_path / "model" / "rerank.safetensors").exists()


def test_load_without_needed_reranker_file_is_refused(model, tmp_path):
    save_checkpoint(model, tmp_path / "model")
    (tmp_path / "model" / "rerank.safetensors").unlink()
    with pytest.raises(CheckpointError, match="the model is not complete"):
        load_checkpoint(tmp_path / "model")


def test_load_dangling_reranker_link_is_refused(model, tmp_path):
    save_checkpoint(replace(model, search=BeamSearch()), tmp_path / "model")
    path = tmp_path / "model" / "rerank.safetensors"
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"rerank\.safetensors"):
        load_checkpoint(tmp_path / "model")


def test_ensemble_uses_reranker_of_first_model(model, photos):
    other = small_checkpoint()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for weight in other.model.encoder.parameters():
            weight.normal_(0, 0.5)
    captioner = Captioner(model, others=[other])
    alone = [replace(each, reranker=None, search=BeamSearch()) for each in (model, other)]
    pixels = torch.stack([captioner.read_pixels(photo) for photo in photos])
    with torch.inference_mode():
        both = [each.model.encoder(pixels).vector for each in (model, other)]
    rerank, others = map(model.reranker.prepare, both)
    differing = 0
    how = replace(model.search, rerank_weight=1e3)  # nothing but the rerank counts
    beam = replace(model.search, rerank_weight=0.0, n=8)
    for image, photo in enumerate(photos):
        every = Captioner(alone[0], others=alone[1:]).caption(photo, search=beam).captions
        rivals = [each for each in every if each.finished] or every
        words = [tuple(map(model.vocabulary.id, each.words)) for each in rivals]
        values = rerank(image, words)
        differing += values.index(max(values)) != np.argmax(others(image, words))
        best = captioner.caption(photo, search=how).captions[0].words
        assert words[values.index(max(values))] == tuple(map(model.vocabulary.id, best))
    assert differing


def test_search_needing_reranker_is_refused_before_images(model, photos, tmp_path):
    captioner = Captioner(replace(model, reranker=None, search=BeamSearch()))
    output = EvaluationConfig(output=tmp_path / "captions.json")
    for ask in (
        lambda: captioner.caption(photos[0], search=model.search),
        lambda: evaluate(captioner, f"coco:{TINY}", search=model.search, config=output),
        lambda: list(captioner.caption_files(photos, search=model.search, workers=0)),
        lambda: sweep(
            captioner, f"coco:{TINY}", split="val", searches=[model.search], cache=tmp_path
        ),
    ):
        with pytest.raises(ConfigError, match="has no n-gram reranker"):
            ask()
    assert not list(tmp_path.iterdir())


def test_consensus_and_reranker_scores_add_up(model, photos):
    words = [[caption.split() for caption in image] for image in SAID]
    with torch.inference_mode():
        pixels = torch.stack([Captioner(model).read_pixels(photo) for photo in photos])
        vectors = model.model.encoder(pixels).vector
    consensus = Consensus(vectors[:4], words, config=ConsensusConfig(weight=7.0))
    reranking = Captioner(model, consensus=consensus)
    beam = replace(model.search, rerank_weight=0.0, n=8)
    rerank = model.reranker.prepare(vectors)
    for image, photo in enumerate(photos):
        every = Captioner(model).caption(photo, search=beam).captions
        tokens = [tuple(map(model.vocabulary.id, each.words)) for each in every]
        near = consensus.score_captions(vectors[image], [each.words for each in every])
        values = [
            each.log_prob / (len(each.words) + each.finished) ** 0.5 + 20 * ngrams + 7 * others
            for each, ngrams, others in zip(every, rerank(image, tokens), near, strict=True)
        ]
        best = max(range(len(every)), key=lambda k: (every[k].finished, values[k]))
        assert reranking.caption(photo).captions[0].words == every[best].words


def test_save_search_needing_reranker_is_refused(model, tmp_path):
    with pytest.raises(ConfigError, match="could not be loaded again"):
        save_checkpoint(replace(model, reranker=None), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_fingerprint_depends_on_reranker(model):
    plain = replace(model, reranker=None)
    other = replace(model.reranker, unseen=1.0)
    models, backend = (model, plain, replace(model, reranker=other)), Captioner(model).backend
    found = {fingerprint([each], backend) for each in models}
    assert len(found) == 3


def run(*arguments):
    """Return the exit code of the command line."""
    with pytest.raises(SystemExit) as stop:
        main([*map(str, arguments)])
    return stop.value.code


def test_caption_command_rerank_weight_needs_reranker(model, photos, tmp_path, capsys):
    save_checkpoint(replace(model, reranker=None, search=BeamSearch()), tmp_path / "model")
    arguments = ["caption", str(photos[0]), "--model", str(tmp_path / "model")]
    output = tmp_path / "out.jsonl"
    assert run(*arguments, "--rerank-weight", 3, "-o", output) == 2
    assert "has no n-gram reranker" in capsys.readouterr().err
    assert not output.exists()
    assert run(*arguments, "--rerank-weight", 0) == 0


def test_caption_command_rerank_weight_reaches_search(model, photos, tmp_path, capsys):
    save_checkpoint(model, tmp_path / "model")
    arguments = ["caption", *map(str, photos), "--model", str(tmp_path / "model")]
    arguments += ["--precision", "float32"]
    captioner = Captioner(model)
    for weight in (0.0, 20.0, 1000.0):
        assert run(*arguments, "--rerank-weight", weight) == 0
        how = replace(model.search, rerank_weight=weight)
        said = capsys.readouterr().out
        for photo in photos:
            assert captioner.caption(photo, search=how).text in said
