"""The reward against the score, and with token ids for words."""

import pytest
from made_captions import captions

from captioning.errors import ScoreError
from captioning.metrics import CiderReward, score
from captioning.text.tokenizer import tokenize


def words_of(references):
    return {i: [tokenize(c) for c in r] for i, r in references.items()}


def test_the_reward_is_the_score_of_each_image():
    candidates, references = captions(1, 50)
    candidates[3] = "an unseen unseen word and another"
    reward = CiderReward(words_of(references))
    found = reward(list(candidates), [tokenize(c) for c in candidates.values()])
    assert found == pytest.approx(score(candidates, references).per_image["cider"].to_numpy())
    assert found.max() > 0


def test_token_ids_do_as_well_as_words():
    candidates, references = captions(2, 20)
    words = words_of(references)
    spoken = [tokenize(c) for c in candidates.values()]
    ids = {w: i for i, w in enumerate({w for r in words.values() for c in r for w in c})}
    numbered = {i: [[ids[w] for w in c] for c in r] for i, r in words.items()}
    said = [[ids.get(w, -1) for w in c] for c in spoken]
    assert CiderReward(numbered)(list(words), said) == pytest.approx(
        CiderReward(words)(list(words), spoken)
    )


def test_several_captions_of_one_image_are_rewarded_alone():
    _, references = captions(3, 10)
    words = words_of(references)
    reward = CiderReward(words)
    sampled = [words[4][0], words[5][0], []]
    together = reward([4, 4, 4], sampled)
    assert together == pytest.approx([reward([4], [caption])[0] for caption in sampled])
    assert together[2] == 0


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ({1: [["a"]]}, "the references are of 1 image. "),
        ({1: [["a"]], 2: []}, r"Without a reference: 1 image \(such as 2\)"),
    ],
)
def test_references_that_cannot_serve_are_said(references, message):
    with pytest.raises(ScoreError, match=message):
        CiderReward(references)


def test_an_image_without_references_is_said():
    with pytest.raises(ScoreError, match="Image 7 has no references"):
        CiderReward({1: [["a"]], 2: [["b"]]})([7], [["a"]])
