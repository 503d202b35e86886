"""Significance tests: equal systems, a better system, and chance."""

import dataclasses

import jaxtyping
import pandas as pd
import pytest
from made_captions import make_captions

from captioning.errors import ScoreError
from captioning.metrics import compare, score


def test_compare_system_with_itself_finds_no_difference():
    candidates, references = make_captions(1, 30)
    result = compare(candidates, candidates, references, samples=100)
    for difference in result.differences.values():
        assert difference.delta == 0
        assert difference.p_bootstrap == difference.p_randomization == 1


def test_compare_better_system_is_significant_in_both_orders():
    worse, references = make_captions(2, 60)
    better = {i: r[0] for i, r in references.items()}
    result = compare(better, worse, references, samples=200)
    reverse = compare(worse, better, references, samples=200)
    for name, difference in result.differences.items():
        assert difference.low > 0
        assert difference.p_bootstrap < 0.02
        assert difference.p_randomization < 0.02
        assert reverse.differences[name].delta == pytest.approx(-difference.delta)
    assert result.a.bleu_4 == score(better, references).bleu_4
    assert "BLEU-4" in result.table()


def test_compare_similar_systems_are_rarely_significant():
    # If both are equally good, p is uniform: about 1 of 20 pairs is below 0.05, rarely 6.
    significant = 0
    for seed in range(20):
        a, references = make_captions(seed, 40)
        b, _ = make_captions(seed + 1000, 40)
        difference = compare(a, b, references, samples=100).differences["rouge_l"]
        significant += difference.p_randomization < 0.05
    assert significant < 6


def test_compare_one_image_omits_cider():
    result = compare({1: "a dog"}, {1: "a cat"}, {1: ["a dog runs"]}, samples=20)
    assert "cider" not in result.differences


def test_comparison_is_shown_as_table_and_equal_by_identity():
    candidates, references = make_captions(1, 5)
    one, other = (compare(candidates, candidates, references, samples=5) for _ in range(2))
    assert repr(one) == one.table()
    assert one != other
    assert len({one, other, one}) == 2
    assert dataclasses.replace(one, seed=3).table().endswith("seed:3")


def test_compare_accepts_series_lists_and_generators():
    a, references = make_captions(1, 8)
    b, _ = make_captions(2, 8)
    lists = {i: [caption] for i, caption in b.items()}
    generators = {i: (c for c in r) for i, r in references.items()}
    result = compare(pd.Series(a), lists, generators, samples=20)
    assert result.differences == compare(a, b, references, samples=20).differences


def test_compare_names_the_argument_that_is_not_a_mapping(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users
    with pytest.raises(ScoreError, match=r"^b must be a mapping .* of type list"):
        compare({1: "a"}, ["a"], {1: ["a"]})
