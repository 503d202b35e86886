"""Scores against the official scorers' own code, and by what must not change them."""

import dataclasses
import json

import jaxtyping
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_captions import captions, official
from nltk.translate.bleu_score import corpus_bleu

from captioning.errors import ScoreError
from captioning.metrics import BleuCounts, DocumentFrequency, rouge_l, score

pytest.importorskip("pycocoevalcap")

NAMES = ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"]
word = st.sampled_from(["a", "the", "dog", "cat", "runs", "on", "grass"])
caption = st.lists(word, min_size=1, max_size=8).map(" ".join)
corpus = st.lists(
    st.tuples(caption, st.lists(caption, min_size=1, max_size=3)), min_size=2, max_size=6
)


def split(pairs):
    return dict(enumerate(c for c, _ in pairs)), dict(enumerate(r for _, r in pairs))


@pytest.mark.parametrize("images", [2, 3, 40, 200])
def test_scores_equal_the_official_ones(images):
    candidates, references = captions(images, images)
    scores, truth = score(candidates, references), official(candidates, references)
    for name in NAMES:
        assert getattr(scores, name) == pytest.approx(truth[name][0], abs=1e-8)
        assert scores.per_image[name].to_numpy() == pytest.approx(truth[name][1], abs=1e-8)


def test_one_image_has_every_official_score_but_cider():
    candidates, references = captions(3, 1)
    scores, truth = score(candidates, references), official(candidates, references)
    for name in NAMES[:-1]:
        assert getattr(scores, name) == pytest.approx(truth[name][0], abs=1e-8)
    assert scores.cider is None
    assert scores.per_image["cider"].isna().all()
    assert "CIDEr is undefined for one image" in scores.notes[0]
    assert "n/a" in scores.table()


@pytest.mark.parametrize("text", ["", " ", "."])
def test_empty_candidates_are_scored_as_officially_and_said(text):
    _, references = captions(4, 5)
    candidates = dict.fromkeys(references, text)
    scores, truth = score(candidates, references), official(candidates, references)
    assert [getattr(scores, name) for name in NAMES] == pytest.approx(
        [truth[name][0] for name in NAMES], abs=1e-8
    )
    assert "Candidates without words: 5 of 5 (such as image 0)" in scores.notes[0]


def test_a_reference_without_words_is_scored_as_officially():
    candidates, references = {1: "", 2: "a dog"}, {1: [""], 2: ["...", "a cat"]}
    truth = official(candidates, references)
    scores = score(candidates, references)
    assert [getattr(scores, n) for n in NAMES] == pytest.approx([truth[n][0] for n in NAMES])


def test_a_word_with_a_blank_inside_is_split_as_officially():
    candidates = {1: "1 1/2 of a pizza", 2: "a dog"}
    references = {1: ["1 1/2 pizza", "1 cat"], 2: ["a cat"]}
    scores, truth = score(candidates, references), official(candidates, references)
    for name in NAMES:
        assert scores.per_image[name].to_numpy() == pytest.approx(truth[name][1], abs=1e-8)


def test_bleu_is_the_arithmetic_of_nltk():
    candidates, references = captions(5, 60)
    from captioning.text.tokenizer import tokenize

    ids = [i for i in references if len(tokenize(candidates[i])) >= 4]
    got = score({i: candidates[i] for i in ids}, {i: references[i] for i in ids})
    hypotheses = [tokenize(candidates[i]) for i in ids]
    truths = [[tokenize(c) for c in references[i]] for i in ids]
    for n in range(1, 5):
        want = corpus_bleu(truths, hypotheses, weights=[1 / n] * n)
        assert getattr(got, f"bleu_{n}") == pytest.approx(want, abs=1e-8)


@given(corpus, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_the_order_of_images_and_references_changes_nothing(pairs, random):
    candidates, references = split(pairs)
    ids = list(references)
    random.shuffle(ids)
    mixed = {i: random.sample(references[i], len(references[i])) for i in ids}
    a, b = score(candidates, references), score(candidates, mixed)
    assert list(a.values.values()) == pytest.approx(list(b.values.values()))
    assert a.per_image[NAMES].to_numpy() == pytest.approx(
        b.per_image[NAMES].loc[a.per_image.index].to_numpy()
    )


@given(corpus)
@settings(max_examples=40, deadline=None)
def test_a_corpus_twice_over_has_the_same_bleu(pairs):
    once, twice = score(*split(pairs)), score(*split(pairs + pairs))
    assert twice.counts == once.counts + once.counts
    for name, correct in zip(NAMES, once.counts.correct, strict=False):
        # Where nothing is correct the official epsilon, which does not grow, is all there is.
        near = 1e-7 if correct else 1e-3
        assert getattr(once, name) == pytest.approx(getattr(twice, name), abs=near)


@given(corpus, corpus)
@settings(max_examples=40, deadline=None)
def test_counts_of_two_parts_add_up(left, right):
    parts = score(*split(left)).counts + score(*split(right)).counts
    assert parts == score(*split(left + right)).counts


@given(corpus)
@settings(max_examples=40, deadline=None)
def test_a_candidate_equal_to_a_reference_is_perfect(pairs):
    _, references = split(pairs)
    scores = score({i: c[-1] for i, c in references.items()}, references)
    assert scores.rouge_l == pytest.approx(1)
    assert scores.bleu_1 == pytest.approx(1)


@given(st.lists(word, max_size=9), st.lists(st.lists(word, max_size=9), min_size=1, max_size=3))
def test_rouge_equals_the_table_of_common_subsequences(candidate, references):
    from pycocoevalcap.rouge.rouge import Rouge

    want = Rouge().calc_score([" ".join(candidate)], [" ".join(r) for r in references])
    assert rouge_l(candidate, references) == pytest.approx(want)


def test_counts_and_lengths_are_those_of_a_worked_example():
    scores = score({1: "the the the cat"}, {1: ["the cat the dog sits here", "the cat is on"]})
    assert scores.counts == BleuCounts((4, 3, 2, 1), (3, 1, 0, 0), 4, 4)


def test_of_two_equally_close_references_the_shorter_counts():
    scores = score({1: "a b c"}, {1: ["a b c d", "a b"]})
    assert scores.counts.reference_length == 2


def test_a_document_frequency_of_the_same_references_changes_nothing(tmp_path):
    from captioning.text.tokenizer import tokenize

    candidates, references = captions(6, 30)
    words = {i: [tokenize(c) for c in r] for i, r in references.items()}
    frequency = DocumentFrequency.build(words, name="made")
    for name in ("df.json", "df.json.gz"):
        frequency.save(tmp_path / name)
        assert DocumentFrequency.load(tmp_path / name) == frequency
    fixed = score(candidates, references, document_frequency=frequency)
    assert fixed.cider == pytest.approx(score(candidates, references).cider)
    assert "idf=made,30images" in fixed.signature
    alone = score({0: candidates[0]}, {0: references[0]}, document_frequency=frequency)
    assert alone.cider == pytest.approx(fixed.per_image["cider"][0])


def test_a_document_frequency_counts_the_words_of_sentences(tmp_path):
    from captioning.text.tokenizer import tokenize

    references = {1: ["A dog's ball, 1 1/2 feet.", "a cat"], 2: ["the dog runs"], 3: ["snow"]}
    words = {i: [" ".join(tokenize(c)).split() for c in r] for i, r in references.items()}
    found = DocumentFrequency.build(references)
    assert found == DocumentFrequency.build(words)
    assert found.counts["dog",] == 2
    found.save(str(tmp_path / "df.json"))
    assert DocumentFrequency.load(str(tmp_path / "df.json")) == found


def test_references_may_be_arrays_and_columns(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    candidates, references = captions(8, 5)
    expected = score(candidates, references).values
    for kind in (np.array, pd.Series):
        assert score(candidates, {i: kind(r) for i, r in references.items()}).values == expected
    with pytest.raises(ScoreError, match="has no reference"):
        score({1: "a", 2: "b"}, {1: np.array(["a"]), 2: np.array([])})


def test_candidates_and_references_may_be_columns_of_a_table():
    candidates, references = captions(8, 5)
    found = score(pd.Series(candidates), pd.Series(references))
    assert found.values == score(candidates, references).values
    assert list(found.per_image.index) == list(references)


def test_references_of_an_image_may_be_a_generator_or_a_tuple():
    candidates, references = captions(8, 5)
    expected = score(candidates, references).values
    for kind in (tuple, iter, lambda captions: (c for c in captions)):
        assert score(candidates, {i: kind(r) for i, r in references.items()}).values == expected


def test_candidates_may_be_lists_of_one_as_pycocoevalcap_has_them():
    candidates, references = captions(8, 5)
    listed = {i: [caption] for i, caption in candidates.items()}
    found = score(listed, references)
    assert found.values == score(candidates, references).values
    assert list(found.per_image["caption"]) == list(candidates.values())


@pytest.mark.parametrize("given", [["a dog"], "a dog", [{"image_id": 1, "caption": "a"}], None])
def test_what_is_no_mapping_is_named_with_the_way_to_one(given, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    kind = type(given).__name__
    with pytest.raises(ScoreError, match=f"^candidates is of type {kind}; .* to a caption") as said:
        score(given, {1: ["a dog"]})
    assert "dict(enumerate(captions))" in str(said.value)
    assert "captioning.metrics.read_results(path)" in str(said.value)
    with pytest.raises(ScoreError, match=f"^references is of type {kind}; .* list of captions"):
        score({1: "a dog"}, given)
    with pytest.raises(ScoreError, match="references of image 1 are 5; a list of captions"):
        score({1: "a dog"}, {1: 5})


def test_a_column_with_an_image_twice_is_refused():
    twice = pd.Series(["a", "b", "c"], index=[1, 2, 2])
    with pytest.raises(ScoreError, match="candidates has more than one row for image 2"):
        score(twice, {1: ["a"], 2: ["b"]})


def test_half_a_character_does_not_stop_the_scorer():
    found = score({1: "a dog \ud83d", 2: "a cat"}, {1: ["a dog \ud83d"], 2: ["a \ude00 cat"]})
    assert found.per_image["bleu_1"][1] == pytest.approx(1)
    assert found.per_image["caption"][1] == "a dog ?"


@pytest.mark.parametrize(
    ("wish", "said"),
    [({"samples": 0}, "samples is 0"), ({"seed": -1}, "seed -1"), ({"confidence": 95.0}, "is 95")],
)
def test_intervals_that_make_no_sense_are_refused(wish, said):
    with pytest.raises(ScoreError, match=said):
        score(*captions(9, 4)).intervals(**wish)


def test_a_file_that_is_no_document_frequency_is_named(tmp_path):
    (tmp_path / "df.json").write_text('{"format": "other"}')
    with pytest.raises(ScoreError, match=r"df\.json cannot be read .* format is 'other'"):
        DocumentFrequency.load(tmp_path / "df.json")
    with pytest.raises(ScoreError, match="over 1 image"):
        DocumentFrequency.build({1: [["a"]]})


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        ({}, {}, "no references"),
        ({1: "a"}, {1: ["a"], 2: ["b"]}, r"without a candidate: 1 image \(such as 2\)"),
        ({1: "a", 3: "b"}, {1: ["a"]}, r"without references: 1 candidate \(such as 3\)"),
        ({"1": "a", 2: "b"}, {1: ["a"]}, "1 and '1' are different"),
        ({"1": "a"}, {1: ["a"]}, "differ only in type, such as '1' and 1; give both as one type"),
        ({1: "a", "2": "b"}, {1: ["a"], 2: ["b"]}, "differ only in type, such as '2' and 2"),
        ({1: "a"}, {1: []}, "Image 1 has no reference"),
        ({1: "a"}, {1: "a dog"}, "The references of image 1 are one string"),
        ({1: ["a", "b"]}, {1: ["a"]}, "Image 1 has 2 captions in candidates; one is scored"),
        ({1: []}, {1: ["a"]}, "Image 1 has 0 captions in candidates"),
    ],
)
def test_what_cannot_be_scored_is_said(candidates, references, message):
    with pytest.raises(ScoreError, match=message):
        score(candidates, references)


def test_intervals_hold_the_scores_and_narrow_with_more_images():
    wide = score(*captions(7, 20))
    narrow = score(*captions(7, 400))
    for name in NAMES:
        found = wide.intervals(samples=200)[name]
        assert found.low <= getattr(wide, name) <= found.high
        less = narrow.intervals(samples=200)[name]
        if name in ("bleu_1", "rouge_l"):
            assert less.high - less.low < found.high - found.low
    assert wide.intervals(samples=50, seed=1) == wide.intervals(samples=50, seed=1)


def test_scores_show_as_their_table_and_are_compared_by_identity():
    candidates, references = captions(8, 10)
    one, other = score(candidates, references), score(candidates, references)
    assert repr(one) == one.table()
    assert one == one
    assert one != other
    assert len({one, other, one}) == 2
    assert dataclasses.replace(one, signature="s").values == one.values


def test_a_report_is_plain_json_and_a_readable_table():
    scores = score(*captions(8, 10))
    report = json.loads(json.dumps(scores.as_dict()))
    assert report["scores"]["bleu_4"] == scores.bleu_4
    assert report["images"] == len(scores) == 10
    table = scores.table(scores.intervals(samples=20))
    assert f"{100 * scores.cider:6.2f}" in table
    assert table.splitlines()[-1] == scores.signature
    for choice in ("images:10", "refs:2-3", "tok:ptb", "closest", "beta1.2", "idf=references"):
        assert choice in scores.signature
