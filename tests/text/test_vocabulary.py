import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.errors import VocabularyError
from captioning.text.tokenizers import join_words
from captioning.text.vocabulary import Vocabulary

SPECIALS = ["<pad>", "<bos>", "<eos>", "<unk>"]
CAPTIONS = [
    ["a", "dog", "runs"],
    ["a", "dog", "and", "a", "cat"],
    ["the", "cat", "sleeps"],
    ["a", "bird"],
]
words = st.text(alphabet="abcdef'é", min_size=1, max_size=3)


@given(st.lists(st.lists(words), min_size=1), st.integers(1, 4))
def test_build_keeps_exactly_the_frequent_words(captions: list[list[str]], min_count: int) -> None:
    counts = Counter(word for caption in captions for word in caption)
    expected = {word for word in counts if counts[word] >= min_count}
    if not expected:
        with pytest.raises(VocabularyError, match=f"no word occurs {min_count} times"):
            Vocabulary.build(captions, min_count=min_count)
        return
    vocabulary = Vocabulary.build(captions, min_count=min_count)
    kept = list(vocabulary.words[4:])
    assert (set(kept), len(kept)) == (expected, len(expected))
    assert all(
        (-counts[first], first) < (-counts[second], second) for first, second in pairwise(kept)
    )


def test_ids_are_indices_after_the_special_tokens() -> None:
    vocabulary = Vocabulary.build(CAPTIONS, min_count=2)
    assert vocabulary.words == (*SPECIALS, "a", "cat", "dog")
    assert [vocabulary.id(word) for word in vocabulary.words] == list(range(7))
    assert (vocabulary.pad, vocabulary.bos, vocabulary.eos, vocabulary.unk) == (0, 1, 2, 3)


def test_build_ignores_order_of_captions() -> None:
    forward = Vocabulary.build(CAPTIONS, min_count=1)
    assert Vocabulary.build(CAPTIONS[::-1], min_count=1) == forward
    assert hash(Vocabulary.build(CAPTIONS[::-1], min_count=1)) == hash(forward)


def test_build_special_token_in_caption_is_not_repeated() -> None:
    assert Vocabulary.build([["<unk>", "a"]], min_count=1).words == (*SPECIALS, "a")


@given(st.lists(st.sampled_from(["a", "dog", "and", "cat", "sleeps"])))
def test_decode_inverts_encode_for_known_words(caption: list[str]) -> None:
    vocabulary = Vocabulary.build(CAPTIONS, min_count=1)
    tokens = vocabulary.encode(caption)
    assert (tokens[0], tokens[-1], len(tokens)) == (1, 2, len(caption) + 2)
    assert vocabulary.decode(tokens) == caption


def test_encode_unknown_word_gives_unk_and_decode_shows_it() -> None:
    vocabulary = Vocabulary.build(CAPTIONS, min_count=2)
    assert vocabulary.encode(["a", "zebra"]) == [1, 4, 3, 2]
    assert vocabulary.decode([1, 4, 3, 2]) == ["a", "<unk>"]
    assert "zebra" not in vocabulary
    assert "a" in vocabulary


def test_decode_stops_at_eos_and_skips_padding() -> None:
    vocabulary = Vocabulary.build(CAPTIONS, min_count=2)
    assert vocabulary.decode([1, 4, 0, 5, 2, 6, 6]) == ["a", "cat"]


@pytest.mark.parametrize("token", [-1, 7])
def test_decode_token_outside_vocabulary_raises(token: int) -> None:
    with pytest.raises(VocabularyError, match=f"token {token} is outside this vocabulary of 7"):
        Vocabulary.build(CAPTIONS, min_count=2).decode([4, token])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], r"begins with <pad>, <bos>, <eos>, <unk>, found \[\]"),
        (["a", *SPECIALS], "begins with .*, found"),
        ([*SPECIALS, ""], "non-empty string"),
        ([*SPECIALS, "a", "b", "a"], r"the vocabulary contains 'a' twice"),
    ],
)
def test_vocabulary_malformed_words_raise(bad: list[str], message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        Vocabulary(bad)


def test_load_restores_saved_words(tmp_path: Path) -> None:
    vocabulary = Vocabulary.build([["café", '"', "\\", "n't", "naïve", "日本"]], min_count=1)
    vocabulary.save(tmp_path / "vocabulary.json")
    assert Vocabulary.load(tmp_path / "vocabulary.json") == vocabulary
    content = json.loads((tmp_path / "vocabulary.json").read_text(encoding="utf-8"))
    assert content == {"tokenizer": "ptb", "words": list(vocabulary.words)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "truncated"),
        ("[" * 200_000, "expected an object"),
        ("[]", r"expected an object, found \[\]"),
        ('{"words": 3}', "words: expected a list, found 3"),
        ("{}", "missing field words"),
        ('{"words": ["a"]}', r"found \['a'\]"),
        (
            '{"words": ["<pad>", "<bos>", "<eos>", "<unk>", ["a"]]}',
            r"words\[4\]: expected a string",
        ),
        ('{"words": ["<pad>", "<bos>", "<eos>", "<unk>", "a", "a"]}', "contains 'a' twice"),
        *(
            (
                json.dumps({"words": [*SPECIALS, f"a{character}b and more"]}),
                "v.json: (the word 'a.*b and more' has a control character|.*surrogate)",
            )
            for character in ("\x00", "\n", "\x1b", "\x7f", "\x85", "\u2028", "\ud800")
        ),
    ],
)
def test_load_bad_file_raises_with_path(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "v.json"
    path.write_text(text)
    with pytest.raises(VocabularyError, match=message) as caught:
        Vocabulary.load(path)
    assert str(path) in str(caught.value)


def test_load_accepts_words_of_all_scripts(tmp_path: Path) -> None:
    unusual = ["\u0645\u06cc\u200c\u062e", "1\u00a01/2", "\u00ad", "\U0001f600", "../x", "\u0378"]
    vocabulary = Vocabulary([*SPECIALS, *unusual])  # joiner, no-break space, soft hyphen, no name
    vocabulary.save(tmp_path / "v.json")
    assert Vocabulary.load(tmp_path / "v.json") == vocabulary


def test_load_missing_file_raises_with_path(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"cannot read '.*no\.json'"):
        Vocabulary.load(tmp_path / "no.json")


def test_build_leaves_out_words_that_load_refuses(tmp_path: Path) -> None:
    captions = [["dog", "x@y\x81z", "half\ud83d", "two\u2028lines", "été"]]
    built = Vocabulary.build(captions, min_count=1)
    assert built.words[4:] == ("dog", "été")
    assert built.extended(Counter(captions[0]), min_count=1) == built
    built.save(tmp_path / "v.json")
    assert Vocabulary.load(tmp_path / "v.json") == built


def test_join_words_attaches_clitics() -> None:
    assert (
        join_words(["the", "dog", "'s", "tail", "is", "n't", "red"]) == "the dog's tail isn't red"
    )
    assert join_words(["'s"]) == "'s"
    assert join_words([]) == ""


def test_extended_keeps_ids_and_adds_frequent_words():
    known = Vocabulary.build([["dog", "runs"]], min_count=1)
    captions = [["cat", "runs"], ["cat", "sofa"], ["bus", "cat", "bus"], ["<eos>", "<eos>"]]
    counts = Counter(word for caption in captions for word in caption)
    extended = known.extended(counts, min_count=2)
    assert extended.words == (*known.words, "cat", "bus")
    assert known.extended({"dog": 1}, min_count=1) == known
