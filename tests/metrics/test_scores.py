"""Scores against the official scorers, and their invariances."""

import dataclasses
import json
from importlib.util import find_spec

import jaxtyping
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_captions import make_captions, score_officially
from nltk.translate.bleu_score import corpus_bleu
from required_tools import require_tool

from captioning.errors import ScoreError
from captioning.metrics import BleuCounts, DocumentFrequency, compute_rouge_l, score
from captioning.text.tokenizer import tokenize

official = require_tool("pycocoevalcap", find_spec("pycocoevalcap") is not None)

NAMES = ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"]
word = st.sampled_from(["a", "the", "dog", "cat", "runs", "on", "grass"])
caption = st.lists(word, min_size=1, max_size=8).map(" ".join)
pairs_of_captions = st.lists(
    st.tuples(caption, st.lists(caption, min_size=1, max_size=3)), min_size=2, max_size=6
)


def split(pairs):
    return dict(enumerate(c for c, _ in pairs)), dict(enumerate(r for _, r in pairs))


# Equality with the official scorers


@official
@pytest.mark.parametrize(
    ("candidates", "references"),
    [
        *(make_captions(images, images) for images in (2, 3, 40, 200)),
        make_captions(3, 1),
        *((dict.fromkeys(range(5), text), make_captions(4, 5)[1]) for text in ("", " ", ".")),
        ({1: "", 2: "a dog"}, {1: [""], 2: ["...", "a cat"]}),
        # "1 1/2" is one word with a space inside.
        ({1: "1 1/2 of a pizza", 2: "a dog"}, {1: ["1 1/2 pizza", "1 cat"], 2: ["a cat"]}),
    ],
)
def test_scores_equal_pycocoevalcap(candidates, references):
    scores, truth = score(candidates, references), score_officially(candidates, references)
    # CIDEr of one image is undefined; pycocoevalcap returns 0.
    for name in NAMES if len(references) > 1 else NAMES[:-1]:
        assert getattr(scores, name) == pytest.approx(truth[name][0], abs=1e-8)
        assert scores.per_image[name].to_numpy() == pytest.approx(truth[name][1], abs=1e-8)


def test_bleu_equals_nltk():
    candidates, references = make_captions(5, 60)
    ids = [i for i in references if len(tokenize(candidates[i])) >= 4]
    scores = score({i: candidates[i] for i in ids}, {i: references[i] for i in ids})
    hypotheses = [tokenize(candidates[i]) for i in ids]
    truth = [[tokenize(c) for c in references[i]] for i in ids]
    for n in range(1, 5):
        expected = corpus_bleu(truth, hypotheses, weights=[1 / n] * n)
        assert getattr(scores, f"bleu_{n}") == pytest.approx(expected, abs=1e-8)


@official
@given(st.lists(word, max_size=9), st.lists(st.lists(word, max_size=9), min_size=1, max_size=3))
def test_rouge_l_equals_pycocoevalcap(candidate, references):
    from pycocoevalcap.rouge.rouge import Rouge

    expected = Rouge().calc_score([" ".join(candidate)], [" ".join(r) for r in references])
    assert compute_rouge_l(candidate, references) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("candidate", "references", "counts"),
    [
        (
            "the the the cat",
            ["the cat the dog sits here", "the cat is on"],
            BleuCounts((4, 3, 2, 1), (3, 1, 0, 0), 4, 4),
        ),
        # Two references are equally close in length: the shorter one counts.
        ("a b c", ["a b c d", "a b"], BleuCounts((3, 2, 1, 0), (3, 2, 1, 0), 3, 2)),
    ],
)
def test_bleu_counts_equal_counts_by_hand(candidate, references, counts):
    assert score({1: candidate}, {1: references}).counts == counts


# Invariances


@given(pairs_of_captions, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_scores_do_not_depend_on_order(pairs, random):
    candidates, references = split(pairs)
    ids = list(references)
    random.shuffle(ids)
    mixed = {i: random.sample(references[i], len(references[i])) for i in ids}
    a, b = score(candidates, references), score(candidates, mixed)
    assert list(a.values.values()) == pytest.approx(list(b.values.values()))
    assert a.per_image[NAMES].to_numpy() == pytest.approx(
        b.per_image[NAMES].loc[a.per_image.index].to_numpy()
    )


@given(pairs_of_captions)
@settings(max_examples=40, deadline=None)
def test_bleu_of_a_repeated_corpus_is_unchanged(pairs):
    once, twice = score(*split(pairs)), score(*split(pairs + pairs))
    for name, correct in zip(NAMES, once.counts.correct, strict=False):
        # If nothing is correct, BLEU depends on the epsilon, which does not grow.
        tolerance = 1e-7 if correct else 1e-3
        assert getattr(once, name) == pytest.approx(getattr(twice, name), abs=tolerance)


@given(pairs_of_captions, pairs_of_captions)
@settings(max_examples=40, deadline=None)
def test_bleu_counts_of_two_parts_add_up(left, right):
    parts = score(*split(left)).counts + score(*split(right)).counts
    assert parts == score(*split(left + right)).counts


@given(pairs_of_captions)
@settings(max_examples=40, deadline=None)
def test_score_candidate_equal_to_reference_is_perfect(pairs):
    _, references = split(pairs)
    scores = score({i: c[-1] for i, c in references.items()}, references)
    assert scores.rouge_l == pytest.approx(1)
    assert scores.bleu_1 == pytest.approx(1)


# Document frequencies


def test_document_frequency_of_the_references_changes_nothing():
    candidates, references = make_captions(6, 30)
    words = {i: [tokenize(c) for c in r] for i, r in references.items()}
    frequency = DocumentFrequency.build(words, name="made")
    assert DocumentFrequency.from_json(frequency.to_json(), source="df.json") == frequency
    fixed = score(candidates, references, document_frequency=frequency)
    assert fixed.cider == pytest.approx(score(candidates, references).cider)
    assert "idf=made,30images" in fixed.signature
    alone = score({0: candidates[0]}, {0: references[0]}, document_frequency=frequency)
    assert alone.cider == pytest.approx(fixed.per_image["cider"][0])


def test_document_frequency_counts_words_of_sentences():
    references = {1: ["A dog's ball, 1 1/2 feet.", "a cat"], 2: ["the dog runs"], 3: ["snow"]}
    words = {i: [" ".join(tokenize(c)).split() for c in r] for i, r in references.items()}
    frequency = DocumentFrequency.build(references)
    assert frequency == DocumentFrequency.build(words)
    assert frequency.counts["dog",] == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"df\.json: "),
        ('{"format": "other"}', r"df\.json: .*missing"),
        ('{"format": "x", "name": "n", "images": 2, "counts": {}}', "found 'x'"),
        ('{"format": "x", "name": "n", "images": 2, "counts": {"a": "b"}}', "an integer"),
    ],
)
def test_document_frequency_malformed_text_is_refused(content, message):
    with pytest.raises(ScoreError, match=message):
        DocumentFrequency.from_json(content, source="df.json")


def test_document_frequency_of_one_image_is_refused():
    with pytest.raises(ScoreError, match="over 1 image"):
        DocumentFrequency.build({1: [["a"]]})


# Types of arguments


def as_entries(captions):
    """Return captions as the scorers of pycocoevalcap take them before tokenization."""
    lists = {i: [c] if isinstance(c, str) else c for i, c in captions.items()}
    return {i: [{"image_id": i, "caption": c} for c in of_image] for i, of_image in lists.items()}


@pytest.mark.parametrize(
    ("convert_candidates", "convert_references"),
    [
        (pd.Series, pd.Series),
        (lambda c: {i: [text] for i, text in c.items()}, dict),
        *((as_entries, kind) for kind in (dict, as_entries)),
        (lambda c: {i: {"caption": text} for i, text in c.items()}, dict),
        *(
            (dict, lambda references, kind=kind: {i: kind(r) for i, r in references.items()})
            for kind in (np.array, pd.Series, tuple, iter, lambda r: (c for c in r))
        ),
    ],
)
def test_score_accepts_series_arrays_and_iterators(
    convert_candidates, convert_references, monkeypatch
):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users
    candidates, references = make_captions(8, 5)
    scores = score(convert_candidates(candidates), convert_references(references))
    assert scores.values == score(candidates, references).values
    assert list(scores.per_image.index) == list(references)
    assert list(scores.per_image["caption"]) == list(candidates.values())


@pytest.mark.parametrize("given", [["a dog"], "a dog", [{"image_id": 1, "caption": "a"}], None])
def test_score_argument_not_a_mapping_is_refused(given, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users
    found = f"but is of type {type(given).__name__}"
    with pytest.raises(ScoreError, match=f"^candidates must .* to a caption, {found}") as error:
        score(given, {1: ["a dog"]})
    assert "dict(enumerate(captions))" in str(error.value)
    assert "captioning.datasets.read_results(path)" in str(error.value)
    with pytest.raises(ScoreError, match=f"^references must .* to a list of captions, {found}"):
        score({1: "a dog"}, given)


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        ({}, {}, "no references"),
        ({1: "a"}, {1: ["a"], 2: ["b"]}, r"1 image without a candidate \(such as 2\)"),
        ({1: "a", 3: "b"}, {1: ["a"]}, r"1 candidate without references \(such as 3\)"),
        ({1: "a", 2: "b"}, {2: ["b"], 3: ["c"]}, "subset=True to score the 1 image with both"),
        ({"1": "a"}, {1: ["a"]}, "differ in type, such as '1' and 1. Give both as one type"),
        ({1: "a", "2": "b"}, {1: ["a"], 2: ["b"]}, "differ in type, such as '2' and 2"),
        ({1: "a"}, {1: []}, "image 1 has no reference"),
        ({1: "a", 2: "b"}, {1: np.array(["a"]), 2: np.array([])}, "image 2 has no reference"),
        ({1: "a"}, {1: "a dog"}, "the references of image 1 are one string"),
        ({1: "a"}, {1: 5}, "list of captions as references of image 1, found 5"),
        ({1: ["a", "b"]}, {1: ["a"]}, "image 1 has 2 captions in candidates, but must have one"),
        ({1: ["a a", "b"]}, {1: ["c"]}, "If candidates and references are swapped, exchange them"),
        ({1: ["a", "dog"]}, {1: ["a dog"]}, r"words of one caption, join them: ' '\.join\(words\)"),
        ({1: "a"}, {1: [["a", "dog"]]}, r"\['a', 'dog'\], not a string.*' '\.join\(words\)"),
        ({1: []}, {1: ["a"]}, "image 1 has 0 captions in candidates"),
        ({1: None}, {1: ["a"]}, "a caption of image 1 is None, not a string"),
        ({1: float("nan")}, {1: ["a"]}, "a caption of image 1 is nan, not a string"),
        ({1: b"a"}, {1: ["a"]}, r"is b'a', not a string\. Decode it: caption\.decode\(\)"),
        ({1: "a"}, {1: b"a"}, "list of captions as references of image 1, found b'a'"),
        ({1: "a"}, {1: {"text": "a"}}, "is {'text': 'a'}, not a string"),
        ({1: np.array("a")}, {1: ["a"]}, "not a string. Give a string, or leave the image out"),
        (pd.DataFrame({"a": [1]}), {1: ["a"]}, r"frame\.set_index\('image_id'\)"),
        (pd.Series(["a", "b"], index=[2, 2]), {2: ["a"]}, "more than one row for image 2"),
    ],
)
def test_score_unusable_captions_are_refused(candidates, references, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users
    with pytest.raises(ScoreError, match=message):
        score(candidates, references)


def test_score_lone_surrogates_are_scored():
    scores = score({1: "a dog \ud83d", 2: "a cat"}, {1: ["a dog \ud83d"], 2: ["a \ude00 cat"]})
    assert scores.per_image["bleu_1"][1] == pytest.approx(1)
    assert scores.per_image["caption"][1] == "a dog ?"


# Intervals and display


@pytest.mark.parametrize(
    ("argument", "message"),
    [({"samples": 0}, "samples is 0"), ({"seed": -1}, "seed is -1"), ({"confidence": 95.0}, "95")],
)
def test_intervals_argument_out_of_range_is_refused(argument, message):
    with pytest.raises(ScoreError, match=message):
        score(*make_captions(9, 4)).intervals(**argument)


def test_intervals_hold_the_scores_and_narrow_with_images():
    few, many = score(*make_captions(7, 20)), score(*make_captions(7, 400))
    for name in NAMES:
        wide, narrow = few.intervals(samples=200)[name], many.intervals(samples=200)[name]
        assert wide.low <= getattr(few, name) <= wide.high
        if name in ("bleu_1", "rouge_l"):
            assert narrow.high - narrow.low < wide.high - wide.low
    assert few.intervals(samples=50, seed=1) == few.intervals(samples=50, seed=1)


def test_scores_are_shown_as_table_and_equal_by_identity():
    candidates, references = make_captions(8, 10)
    one, other = score(candidates, references), score(candidates, references)
    assert repr(one) == one.table()
    assert one == one
    assert one != other
    assert len({one, other, one}) == 2
    assert dataclasses.replace(one, signature="s").values == one.values


def test_scores_convert_to_json_and_table():
    scores = score(*make_captions(8, 10))
    content = json.loads(json.dumps(scores.as_dict()))
    assert content["scores"]["bleu_4"] == scores.bleu_4
    assert content["images"] == len(scores) == 10
    table = scores.table(scores.intervals(samples=20))
    assert f"{100 * scores.cider:6.2f}" in table
    assert table.splitlines()[-1] == scores.signature
    for choice in ("images:10", "refs:2-3", "tok:ptb", "closest", "beta1.2", "idf=references"):
        assert choice in scores.signature
