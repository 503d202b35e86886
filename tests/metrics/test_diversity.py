"""Diversity by hand-counted examples, and the warnings in plain words."""

import pandas as pd
import pytest
from made_captions import captions

from captioning.errors import ScoreError
from captioning.metrics import diversity, score, shuffled


def test_the_figures_are_those_counted_by_hand():
    found = diversity(
        {1: "a dog runs", 2: "A dog runs.", 3: "a <unk> sits"}, training=["a dog runs", "a cat"]
    )
    assert (found.captions, found.distinct, found.vocabulary) == (3, 2, 5)
    assert found.novel == pytest.approx(1 / 3)
    assert found.mean_length == pytest.approx(3)
    assert found.distinct_1 == pytest.approx(5 / 9)
    assert found.distinct_2 == pytest.approx(4 / 6)
    assert found.unknown == pytest.approx(1 / 9)
    assert "<unk> stands 1 time in the captions" in found.warnings[0]
    assert found.as_dict()["distinct"] == 2
    assert "2 of 3" in found.table()
    assert "not in the train split  33.3 %" in found.table()
    assert "1 word\n" in diversity({1: "dog"}).table()


def test_a_collapse_is_said_in_plain_words():
    found = diversity(dict.fromkeys(range(50), "a man on a bench"))
    assert "collapsed: 50 images share 1 caption," in found.warnings[0]
    assert "'a man on a bench'" in found.warnings[0]


def test_varied_captions_are_not_warned_about():
    assert diversity({i: f"a dog sees {i} cats" for i in range(50)}).warnings == ()


def test_repetition_is_said():
    found = diversity({i: f"a dog dog {i}" for i in range(5)})
    assert "A word is repeated at once in 5 of 5 captions" in found.warnings[0]
    assert "no_double_word (on the command line --no-double-word)" in found.warnings[0]


def test_shuffling_hurts_who_looks_and_not_who_does_not():
    _, references = captions(1, 40)
    looks = {i: r[0] for i, r in references.items()}
    blind = dict.fromkeys(references, "a dog sits on the grass")
    assert shuffled(looks, references).cider < 0.5 * score(looks, references).cider
    assert shuffled(blind, references).cider == pytest.approx(score(blind, references).cider)
    assert shuffled(looks, references).signature.endswith("shuffled:seed0")


def test_diversity_and_the_shuffle_take_what_score_takes():
    said, references = captions(1, 6)
    for given in (pd.Series(said), {i: [caption] for i, caption in said.items()}):
        assert diversity(given) == diversity(said)
        assert shuffled(given, references).values == shuffled(said, references).values


def test_no_image_keeps_its_caption():
    names = {i: f"word{chr(97 + i)}" for i in range(20)}
    moved = shuffled(names, {i: [name] for i, name in names.items()}, seed=3)
    assert moved.rouge_l == 0


def test_what_cannot_be_measured_is_said():
    with pytest.raises(ScoreError, match="no captions to measure"):
        diversity({})
    with pytest.raises(ScoreError, match="1 image cannot be shuffled"):
        shuffled({1: "a"}, {1: ["a"]})
