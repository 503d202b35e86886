import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.errors import ConfigError
from captioning.metrics import score
from captioning.text.tokenizer import tokenize
from captioning.text.tokenizers import get_tokenizer, seem_unsplit
from captioning.text.vocabulary import Vocabulary

CHINESE = "一只狗,在iPhone 15 Pro旁边跑。"


def test_ptb_words_are_those_of_the_official_scorer() -> None:
    caption = "A man's dog, gray and wet, can't swim."
    assert get_tokenizer("ptb").split(caption) == tokenize(caption)


def test_whitespace_keeps_every_character_between_spaces() -> None:
    words = get_tokenizer("whitespace").split("Ein  Hund, der\trennt.\n")
    assert words == ["ein", "hund,", "der", "rennt."]
    assert get_tokenizer("whitespace").join(words) == "ein hund, der rennt."


def test_characters_keep_latin_words_and_drop_punctuation() -> None:
    tokenizer = get_tokenizer("characters")
    words = tokenizer.split(CHINESE)
    assert words == [*"一只狗在", "iphone", "15", "pro", *"旁边跑"]
    assert tokenizer.join(words) == "一只狗在iphone 15 pro旁边跑"


def test_characters_keep_vowel_signs_with_their_letter() -> None:
    assert get_tokenizer("characters").split("สุนัข") == ["สุ", "นั", "ข"]


@given(st.text(alphabet="一只狗 aé1。,\u0301\u200d", max_size=12))
def test_characters_lose_only_spaces_and_punctuation(caption: str) -> None:
    text = unicodedata.normalize("NFC", caption.lower())
    kept = [c for c in text if not c.isspace() and unicodedata.category(c)[0] not in "PC"]
    words = get_tokenizer("characters").split(caption)
    assert all(words)
    without_marks = [c for c in kept if unicodedata.category(c)[0] != "M"]
    assert [c for c in "".join(words) if unicodedata.category(c)[0] != "M"] == without_marks


def test_tokenizer_of_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'jieba'.*'ptb', 'whitespace', 'characters'"):
        get_tokenizer("jieba")


def test_vocabulary_file_keeps_the_tokenizer(tmp_path) -> None:
    vocabulary = Vocabulary.build([[*"狗狗跑"]], min_count=1, tokenizer="characters")
    vocabulary.save(tmp_path / "vocabulary.json")
    loaded = Vocabulary.load(tmp_path / "vocabulary.json")
    assert loaded == vocabulary
    assert loaded.tokenizer.split("狗跑") == ["狗", "跑"]
    assert loaded != Vocabulary(loaded.words)


def test_score_characters_counts_shared_characters() -> None:
    candidates = {1: "一只狗跑", 2: "两只猫"}
    references = {1: ["一只狗在跑"], 2: ["两只猫睡觉"]}
    spaced = {i: " ".join(text) for i, text in candidates.items()}
    expected = score(spaced, {i: [" ".join(text) for text in r] for i, r in references.items()})
    found = score(candidates, references, tokenizer="characters")
    assert found.bleu_1 == pytest.approx(expected.bleu_1)
    assert found.bleu_1 > 0.5
    assert "|tok:characters-lower-nopunct|" in found.signature


def test_score_of_unsplit_captions_says_so() -> None:
    captions = {i: "一只狗在草地上奔跑" + "呀" * i for i in range(3)}
    references = {i: [text] for i, text in captions.items()}
    assert any("one word each" in note for note in score(captions, references).notes)
    found = score(captions, references, tokenizer="characters")
    assert not any("one word each" in note for note in found.notes)


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        ([["一只狗在草地上奔跑", "。"]] * 3, True),
        ([["a", "dog", "runs"]] * 3, False),
        ([["dog"]] * 3, False),
        ([], False),
    ],
)
def test_seem_unsplit_needs_one_long_word(captions, expected) -> None:
    assert seem_unsplit(captions) == expected
