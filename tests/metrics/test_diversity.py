"""Diversity of captions, and the shuffled-image baseline."""

import re

import pandas as pd
import pytest
from made_captions import make_captions

from captioning.errors import ScoreError
from captioning.metrics import measure_diversity, score, score_shuffled


def test_diversity_equals_counts_by_hand():
    result = measure_diversity(
        {1: "a dog runs", 2: "A dog runs.", 3: "a <unk> sits"}, training=["a dog runs", "a cat"]
    )
    assert (result.captions, result.distinct, result.vocabulary) == (3, 2, 5)
    assert result.novel == pytest.approx(1 / 3)
    assert result.mean_length == pytest.approx(3)
    assert result.distinct_1 == pytest.approx(5 / 9)
    assert result.distinct_2 == pytest.approx(4 / 6)
    assert result.unknown == pytest.approx(1 / 9)
    assert result.as_dict()["distinct"] == 2
    assert "2 of 3" in result.table()
    assert "not in the train split  33.3 %" in result.table()
    assert "1 word\n" in measure_diversity({1: "dog"}).table()


@pytest.mark.parametrize(
    ("captions", "warning"),
    [
        (["a man on a bench"] * 50, "collapsed: 50 images share 1 caption, .*'a man on a bench'"),
        (
            [f"a dog dog {i}" for i in range(5)],
            "5 of 5 captions repeat a word.*--block-repeated-words",
        ),
        (["a <unk> sits"], "<unk> occurs 1 time"),
        ([f"a dog sees {i} cats" for i in range(50)], None),
    ],
)
def test_diversity_warns_of_broken_captions(captions, warning):
    warnings = measure_diversity(dict(enumerate(captions))).warnings
    assert len(warnings) == (warning is not None)
    assert all(re.search(warning, text) for text in warnings)


def test_score_shuffled_drops_only_for_captions_of_the_image():
    _, references = make_captions(1, 40)
    specific = {i: r[0] for i, r in references.items()}
    generic = dict.fromkeys(references, "a dog sits on the grass")
    baseline = score_shuffled(specific, references)
    assert baseline.cider < 0.5 * score(specific, references).cider
    assert baseline.signature.endswith("shuffled:seed0")
    generic_baseline = score_shuffled(generic, references).cider
    assert generic_baseline == pytest.approx(score(generic, references).cider)


def test_score_shuffled_moves_every_caption():
    names = {i: f"word{chr(97 + i)}" for i in range(20)}
    references = {i: [name] for i, name in names.items()}
    assert score_shuffled(names, references, seed=3).rouge_l == 0


def test_diversity_and_baseline_accept_what_score_accepts():
    captions, references = make_captions(1, 6)
    for given in (pd.Series(captions), {i: [caption] for i, caption in captions.items()}):
        assert measure_diversity(given) == measure_diversity(captions)
        baseline = score_shuffled(captions, references)
        assert score_shuffled(given, references).values == baseline.values


def test_diversity_and_baseline_refuse_too_few_captions():
    with pytest.raises(ScoreError, match="no captions to measure"):
        measure_diversity({})
    with pytest.raises(ScoreError, match="cannot shuffle 1 image"):
        score_shuffled({1: "a"}, {1: ["a"]})
