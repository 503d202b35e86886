"""CIDEr-D as a reward: equal to the score, with words or token ids."""

import pytest
from made_captions import make_captions

from captioning.errors import ScoreError
from captioning.metrics import CiderReward, score
from captioning.text.tokenizer import tokenize


def tokenize_references(references):
    return {i: [tokenize(c) for c in r] for i, r in references.items()}


def test_reward_equals_the_score_of_each_image():
    candidates, references = make_captions(1, 50)
    candidates[3] = "an unseen unseen word and another"
    reward = CiderReward(tokenize_references(references))
    rewards = reward(list(candidates), [tokenize(c) for c in candidates.values()])
    assert rewards == pytest.approx(score(candidates, references).per_image["cider"].to_numpy())
    assert rewards.max() > 0


def test_reward_of_token_ids_equals_that_of_words():
    candidates, references = make_captions(2, 20)
    words = tokenize_references(references)
    captions = [tokenize(c) for c in candidates.values()]
    ids = {w: i for i, w in enumerate({w for r in words.values() for c in r for w in c})}
    numbered = {i: [[ids[w] for w in c] for c in r] for i, r in words.items()}
    numbered_captions = [[ids.get(w, -1) for w in c] for c in captions]
    assert CiderReward(numbered)(list(words), numbered_captions) == pytest.approx(
        CiderReward(words)(list(words), captions)
    )


def test_reward_of_a_caption_does_not_depend_on_others():
    _, references = make_captions(3, 10)
    words = tokenize_references(references)
    reward = CiderReward(words)
    captions = [words[4][0], words[5][0], []]
    rewards = reward([4, 4, 4], captions)
    assert rewards == pytest.approx([reward([4], [caption])[0] for caption in captions])
    assert rewards[2] == 0


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ({1: [["a"]]}, "references for 1 image only"),
        ({1: [["a"]], 2: []}, r"1 image without references \(such as 2\)"),
        ({1: [["a"]], 2: [["b"]]}, "image 7 has no references"),
    ],
)
def test_reward_unusable_references_are_refused(references, message):
    with pytest.raises(ScoreError, match=message):
        CiderReward(references)([7], [["a"]])
