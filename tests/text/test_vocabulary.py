import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.errors import VocabularyError
from captioning.text.vocabulary import Vocabulary, join_words

SPECIALS = ["<pad>", "<bos>", "<eos>", "<unk>"]
CAPTIONS = [
    ["a", "dog", "runs"],
    ["a", "dog", "and", "a", "cat"],
    ["the", "cat", "sleeps"],
    ["a", "bird"],
]
words = st.text(alphabet="abcdef'é", min_size=1, max_size=3)


@given(st.lists(st.lists(words), min_size=1), st.integers(1, 4))
def test_it_keeps_exactly_the_words_that_are_frequent_enough(
    captions: list[list[str]], min_count: int
) -> None:
    counts = Counter(word for caption in captions for word in caption)
    expected = {word for word in counts if counts[word] >= min_count}
    if not expected:
        with pytest.raises(VocabularyError, match=f"No word occurs {min_count} times"):
            Vocabulary.build(captions, min_count=min_count)
        return
    vocabulary = Vocabulary.build(captions, min_count=min_count)
    kept = list(vocabulary.words[4:])
    assert (set(kept), len(kept)) == (expected, len(expected))
    assert all(
        (-counts[first], first) < (-counts[second], second) for first, second in pairwise(kept)
    )


def test_ids_are_places_after_the_four_specials() -> None:
    vocabulary = Vocabulary.build(CAPTIONS, min_count=2)
    assert vocabulary.words == (*SPECIALS, "a", "cat", "dog")
    assert [vocabulary.id(word) for word in vocabulary.words] == list(range(7))
    assert (vocabulary.pad, vocabulary.bos, vocabulary.eos, vocabulary.unk) == (0, 1, 2, 3)


def test_the_order_of_captions_changes_nothing() -> None:
    forward = Vocabulary.build(CAPTIONS, min_count=1)
    assert Vocabulary.build(CAPTIONS[::-1], min_count=1) == forward
    assert hash(Vocabulary.build(CAPTIONS[::-1], min_count=1)) == hash(forward)


def test_a_special_written_in_a_caption_is_not_added_twice() -> None:
    assert Vocabulary.build([["<unk>", "a"]], min_count=1).words == (*SPECIALS, "a")


@given(st.lists(st.sampled_from(["a", "dog", "and", "cat", "sleeps"])))
def test_known_words_come_back_unchanged(caption: list[str]) -> None:
    vocabulary = Vocabulary.build(CAPTIONS, min_count=1)
    tokens = vocabulary.encode(caption)
    assert (tokens[0], tokens[-1], len(tokens)) == (1, 2, len(caption) + 2)
    assert vocabulary.decode(tokens) == caption


def test_an_unknown_word_becomes_unk_and_stays_visible() -> None:
    vocabulary = Vocabulary.build(CAPTIONS, min_count=2)
    assert vocabulary.encode(["a", "zebra"]) == [1, 4, 3, 2]
    assert vocabulary.decode([1, 4, 3, 2]) == ["a", "<unk>"]
    assert "zebra" not in vocabulary
    assert "a" in vocabulary


def test_decoding_stops_at_the_first_end_and_passes_over_padding() -> None:
    vocabulary = Vocabulary.build(CAPTIONS, min_count=2)
    assert vocabulary.decode([1, 4, 0, 5, 2, 6, 6]) == ["a", "cat"]


@pytest.mark.parametrize("token", [-1, 7])
def test_a_token_outside_is_refused(token: int) -> None:
    with pytest.raises(VocabularyError, match=f"Token {token} is outside this vocabulary of 7"):
        Vocabulary.build(CAPTIONS, min_count=2).decode([4, token])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], r"begins with <pad>, <bos>, <eos>, <unk>; this one begins with \[\]"),
        (["a", *SPECIALS], "this one begins with"),
        ([*SPECIALS, ""], "non-empty string"),
        ([*SPECIALS, "a", "b", "a"], r"stand twice in the vocabulary: \['a'\]"),
    ],
)
def test_a_malformed_list_is_refused(bad: list[str], message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        Vocabulary(bad)


def test_it_is_saved_and_loaded_unchanged(tmp_path: Path) -> None:
    vocabulary = Vocabulary.build([["café", '"', "\\", "n't", "naïve", "日本"]], min_count=1)
    vocabulary.save(tmp_path / "vocabulary.json")
    assert Vocabulary.load(tmp_path / "vocabulary.json") == vocabulary
    content = json.loads((tmp_path / "vocabulary.json").read_text(encoding="utf-8"))
    assert content == {"words": list(vocabulary.words)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as a vocabulary"),
        ("[" * 200_000, "cannot be read as a vocabulary"),
        ("[]", r"is no vocabulary: .* was expected"),
        ('{"words": 3}', "is no vocabulary"),
        ('{"words": ["a"]}', r"this one begins with \['a'\]"),
        ('{"words": ["<pad>", "<bos>", "<eos>", "<unk>", ["a"]]}', "with strings was expected"),
        ('{"words": ["<pad>", "<bos>", "<eos>", "<unk>", "a", "a"]}', "stand twice"),
        *(
            (
                json.dumps({"words": [*SPECIALS, f"a{character}b"]}),
                r"v.json: The word 'a.*b' of the vocabulary holds a control character",
            )
            for character in ("\x00", "\n", "\x1b", "\x7f", "\x85", "\u2028", "\ud800")
        ),
    ],
)
def test_a_file_that_is_no_vocabulary_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "v.json"
    path.write_text(text)
    with pytest.raises(VocabularyError, match=message):
        Vocabulary.load(path)


def test_words_of_all_scripts_are_no_control_characters(tmp_path: Path) -> None:
    unusual = ["\u0645\u06cc\u200c\u062e", "1\u00a01/2", "\u00ad", "\U0001f600", "../x", "\u0378"]
    vocabulary = Vocabulary([*SPECIALS, *unusual])  # joiner, no-break space, soft hyphen, no name
    vocabulary.save(tmp_path / "v.json")
    assert Vocabulary.load(tmp_path / "v.json") == vocabulary


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"no\.json cannot be read"):
        Vocabulary.load(tmp_path / "no.json")


def test_words_that_could_not_be_loaded_again_are_not_taken(tmp_path: Path) -> None:
    captions = [["dog", "x@y\x81z", "half\ud83d", "two\u2028lines", "été"]]
    built = Vocabulary.build(captions, min_count=1)
    assert built.words[4:] == ("dog", "été")
    assert built.extended(captions, min_count=1) == built
    built.save(tmp_path / "v.json")
    assert Vocabulary.load(tmp_path / "v.json") == built


def test_clitics_are_joined_to_the_word_before() -> None:
    assert (
        join_words(["the", "dog", "'s", "tail", "is", "n't", "red"]) == "the dog's tail isn't red"
    )
    assert join_words(["'s"]) == "'s"
    assert join_words([]) == ""


def test_extended_keeps_every_id_and_adds_the_frequent_new_words():
    known = Vocabulary.build([["dog", "runs"]], min_count=1)
    captions = [["cat", "runs"], ["cat", "sofa"], ["bus", "cat", "bus"], ["<eos>", "<eos>"]]
    extended = known.extended(captions, min_count=2)
    assert extended.words == (*known.words, "cat", "bus")
    assert known.extended([["dog"]], min_count=1) == known
