"""Two systems compared: what is equal, what is plainly better, and what is noise."""

import dataclasses

import jaxtyping
import pandas as pd
import pytest
from made_captions import captions

from captioning.errors import ScoreError
from captioning.metrics import compare, score


def test_a_system_compared_with_itself_differs_by_nothing():
    candidates, references = captions(1, 30)
    found = compare(candidates, candidates, references, samples=100)
    for difference in found.differences.values():
        assert difference.delta == 0
        assert difference.p_bootstrap == difference.p_randomisation == 1


def test_a_plainly_better_system_is_found_and_the_sides_swap_signs():
    worse, references = captions(2, 60)
    better = {i: r[0] for i, r in references.items()}
    found = compare(better, worse, references, samples=200)
    other = compare(worse, better, references, samples=200)
    for name, difference in found.differences.items():
        assert difference.low > 0
        assert difference.p_bootstrap < 0.02
        assert difference.p_randomisation < 0.02
        assert other.differences[name].delta == pytest.approx(-difference.delta)
    assert found.a.bleu_4 == score(better, references).bleu_4
    assert "BLEU-4" in found.table()


def test_two_systems_of_the_same_kind_are_seldom_told_apart():
    # Under the hypothesis p is uniform: of 20 pairs about one lies below 0.05, hardly ever six.
    low = 0
    for seed in range(20):
        a, references = captions(seed, 40)
        b, _ = captions(seed + 1000, 40)
        low += compare(a, b, references, samples=100).differences["rouge_l"].p_randomisation < 0.05
    assert low < 6


def test_one_image_is_compared_without_cider():
    found = compare({1: "a dog"}, {1: "a cat"}, {1: ["a dog runs"]}, samples=20)
    assert "cider" not in found.differences


def test_a_comparison_shows_as_its_table_and_is_compared_by_identity():
    candidates, references = captions(1, 5)
    one, other = (compare(candidates, candidates, references, samples=5) for _ in range(2))
    assert repr(one) == one.table()
    assert one != other
    assert len({one, other, one}) == 2
    assert dataclasses.replace(one, seed=3).table().endswith("seed:3")


def test_systems_may_be_columns_lists_of_one_and_references_generators():
    a, references = captions(1, 8)
    b, _ = captions(2, 8)
    listed = {i: [caption] for i, caption in b.items()}
    once = {i: (c for c in r) for i, r in references.items()}
    found = compare(pd.Series(a), listed, once, samples=20)
    assert found.differences == compare(a, b, references, samples=20).differences


def test_the_system_that_is_no_mapping_is_named(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    with pytest.raises(ScoreError, match=r"^b is of type list; a mapping"):
        compare({1: "a"}, ["a"], {1: ["a"]})
