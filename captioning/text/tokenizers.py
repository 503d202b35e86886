"""The tokenizers of a model: from a caption to words and back."""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, get_args

from captioning.errors import ConfigError
from captioning.text.tokenizer import tokenize_lines

TokenizerName = Literal["ptb", "whitespace", "characters"]
_CLITICS = frozenset({"'s", "'re", "'ve", "'ll", "'d", "'m", "n't"})
_END_OF_LATIN = "\u0250"


@dataclass(frozen=True)
class Tokenizer:
    """One way to split captions into words.

    Attributes:
        name: Name in configs and models.
        signature: Name in the signature of scores.
        split_all: Splits a list of captions. The order matters for ``ptb``: the official scorer
            reads all captions as one file, so the last word of a caption can depend on the next
            caption (:func:`captioning.text.tokenizer.tokenize_lines`).
        join: Joins words to a readable caption.
    """

    name: TokenizerName
    signature: str
    split_all: Callable[[Sequence[str]], list[list[str]]]
    join: Callable[[Iterable[str]], str]

    def split(self, caption: str) -> list[str]:
        """Return the words of one caption."""
        return self.split_all([caption])[0]


def get_tokenizer(name: str) -> Tokenizer:
    """Return a tokenizer by its name.

    - ``ptb``: the words of the official caption scorer, for English
      (:mod:`captioning.text.tokenizer`).
    - ``whitespace``: lower-case text between white space, for captions that are split into words
      already. Nothing is removed.
    - ``characters``: each character is a word, without white space and punctuation, for languages
      without spaces between words. Runs of Latin letters and digits stay together.

    Raises:
        ConfigError: There is no such tokenizer.
    """
    if name not in _TOKENIZERS:
        known = ", ".join(map(repr, get_args(TokenizerName)))
        raise ConfigError(f"the tokenizer is {name!r}. It must be one of {known}.")
    return _TOKENIZERS[name]


def seem_unsplit(captions: Sequence[Sequence[str]]) -> bool:
    """Return whether most of the split captions consist of one long word.

    The PTB tokenizer returns such words for languages without spaces, such as Chinese.
    """
    words = [[word for word in caption if any(map(str.isalnum, word))] for caption in captions]
    lengths = sorted(map(len, words))
    letters = sum(len(word) for caption in words for word in caption)
    return bool(lengths) and lengths[len(lengths) // 2] == 1 and letters >= 6 * sum(lengths)


def join_words(words: Iterable[str]) -> str:
    """Join PTB words to a readable caption: ``the dog 's tail`` becomes ``the dog's tail``."""
    text = ""
    for word in words:
        text += word if word in _CLITICS or not text else f" {word}"
    return text


def _split_at_white_space(captions: Sequence[str]) -> list[list[str]]:
    return [caption.lower().split() for caption in captions]


def _split_characters(captions: Sequence[str]) -> list[list[str]]:
    return [
        [word for chunk in caption.lower().split() for word in _split_chunk(chunk)]
        for caption in captions
    ]


def _split_chunk(chunk: str) -> list[str]:
    words: list[str] = []
    for latin, characters in groupby(unicodedata.normalize("NFC", chunk), _is_latin):
        if latin:
            words.append("".join(characters))
            continue
        for character in characters:
            category = unicodedata.category(character)
            if category[0] == "M" and words:  # an accent or vowel sign belongs to its letter
                words[-1] += character
            elif category[0] not in "PCM":
                words.append(character)
    return words


def _is_latin(character: str) -> bool:
    return character < _END_OF_LATIN and character.isalnum()


def _join_characters(words: Iterable[str]) -> str:
    text = ""
    for word in words:
        text += " " if text and _is_latin(text[-1]) and _is_latin(word[0]) else ""
        text += word
    return text


_TOKENIZERS: dict[str, Tokenizer] = {
    tokenizer.name: tokenizer
    for tokenizer in (
        Tokenizer("ptb", "ptb-3.4.1-lower-nopunct", tokenize_lines, join_words),
        Tokenizer("whitespace", "whitespace-lower", _split_at_white_space, " ".join),
        Tokenizer("characters", "characters-lower-nopunct", _split_characters, _join_characters),
    )
}
