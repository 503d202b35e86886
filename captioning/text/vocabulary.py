"""The words of a model and their ids."""

import json
import unicodedata
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from captioning.errors import VocabularyError
from captioning.json_data import ADVICE, read_json, shorten
from captioning.short_repr import ShortTuple
from captioning.text.tokenizers import TokenizerName, get_tokenizer

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
SPECIALS = (PAD, BOS, EOS, UNK)
NEVER_GENERATED = tuple(SPECIALS.index(special) for special in (PAD, BOS, UNK))
"""Ids that no generated caption may contain; ``<eos>`` ends a caption."""
_CONTROL_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode categories of control characters, surrogates, and line and paragraph separators."""


class Vocabulary:
    """An immutable list of words, and the tokenizer they come from. The index of a word is its id.

    The first four words are the special tokens ``<pad>``, ``<bos>``, ``<eos>`` and ``<unk>``.

    Args:
        words: All words in id order, special tokens first.
        tokenizer: Splits captions into these words.

    Raises:
        VocabularyError: A special token is missing, or a word is empty, repeated or not a string.
        ConfigError: There is no such tokenizer.
    """

    def __init__(self, words: Sequence[str], *, tokenizer: TokenizerName = "ptb") -> None:
        self.tokenizer = get_tokenizer(tokenizer)
        self.words: tuple[str, ...] = ShortTuple(words)
        if self.words[: len(SPECIALS)] != SPECIALS:
            raise VocabularyError(
                f"a vocabulary begins with {', '.join(SPECIALS)}, found "
                f"{shorten(list(self.words[:4]))}. Use a file that Vocabulary.save wrote."
            )
        if not all(isinstance(word, str) and word for word in self.words):
            raise VocabularyError("every word of a vocabulary must be a non-empty string.")
        self._ids = {word: i for i, word in enumerate(self.words)}
        if len(self._ids) != len(self.words):
            word, count = Counter(self.words).most_common(1)[0]
            times = "twice" if count == 2 else f"{count} times"
            raise VocabularyError(
                f"the vocabulary contains {shorten(repr(word))} {times}. {ADVICE}"
            )
        self.pad, self.bos, self.eos, self.unk = range(len(SPECIALS))

    @classmethod
    def build(
        cls,
        captions: Iterable[Sequence[str]],
        *,
        min_count: int = 5,
        tokenizer: TokenizerName = "ptb",
    ) -> "Vocabulary":
        """Return a vocabulary of the frequent words of tokenized captions.

        Words are sorted by descending count, then alphabetically, so the same captions give the
        same ids on every machine. Words with control characters are left out.

        Args:
            captions: Tokenized captions.
            min_count: Smallest count of a word that is kept.
            tokenizer: Tokenizer that split the captions.

        Raises:
            VocabularyError: No word is frequent enough.
        """
        counts = Counter(word for caption in captions for word in caption)
        return cls.from_counts(counts, min_count=min_count, tokenizer=tokenizer)

    @classmethod
    def from_counts(
        cls,
        counts: Mapping[str, int],
        *,
        min_count: int = 5,
        tokenizer: TokenizerName = "ptb",
    ) -> "Vocabulary":
        """Return the vocabulary of :meth:`build` from the number of occurrences of each word."""
        kept = _frequent_words(counts, min_count, SPECIALS)
        if not kept:
            raise VocabularyError(
                f"no word occurs {min_count} times or more. Use more captions or a lower min_count."
            )
        return cls([*SPECIALS, *kept], tokenizer=tokenizer)

    def extended(self, counts: Mapping[str, int], *, min_count: int = 5) -> "Vocabulary":
        """Return these words, followed by the new words that :meth:`from_counts` would keep."""
        new = _frequent_words(counts, min_count, self._ids)
        return Vocabulary([*self.words, *new], tokenizer=self.tokenizer.name)

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._ids

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Vocabulary)
            and self.words == other.words
            and self.tokenizer == other.tokenizer
        )

    def __hash__(self) -> int:
        return hash(self.words)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} words)"

    def id(self, word: str) -> int:
        """Return the id of a word; for an unknown word, the id of ``<unk>``."""
        return self._ids.get(word, self.unk)

    def encode(self, words: Sequence[str]) -> list[int]:
        """Return the ids of tokenized words between ``<bos>`` and ``<eos>``."""
        return [self.bos, *(self.id(word) for word in words), self.eos]

    def decode(self, tokens: Iterable[int]) -> list[str]:
        """Return the words before the first ``<eos>``, without ``<pad>`` and ``<bos>``.

        ``<unk>`` is kept: search never generates it, so its presence points to an error.

        Raises:
            VocabularyError: A token is not an id of this vocabulary.
        """
        words = []
        for token in tokens:
            if not 0 <= token < len(self):
                raise VocabularyError(
                    f"token {token} is outside this vocabulary of {len(self)} words. Use the "
                    "vocabulary that belongs to the model."
                )
            if token == self.eos:
                break
            if token not in (self.pad, self.bos):
                words.append(self.words[token])
        return words

    def save(self, path: Path) -> None:
        """Write the tokenizer and the words as JSON."""
        content = {"tokenizer": self.tokenizer.name, "words": self.words}
        text = json.dumps(content, ensure_ascii=False, indent=0)
        path.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Read a file that :meth:`save` wrote.

        Raises:
            VocabularyError: The file is not a vocabulary, or a word has a control character.
        """
        found = read_json(path, _VocabularyFile, error=VocabularyError)
        for word in found.words:
            if _has_control(word):
                raise VocabularyError(
                    f"{path}: the word {word[:50]!r} has a control character. {ADVICE}"
                )
        try:
            return cls(found.words, tokenizer=found.tokenizer)
        except VocabularyError as error:
            raise VocabularyError(f"{path}: {error}") from error


@dataclass(frozen=True)
class _VocabularyFile:
    words: tuple[str, ...]
    tokenizer: TokenizerName = "ptb"


def _has_control(word: str) -> bool:
    return not word.isprintable() and any(
        unicodedata.category(character) in _CONTROL_CATEGORIES for character in word
    )


def _frequent_words(counts: Mapping[str, int], min_count: int, known: Container[str]) -> list[str]:
    """Return the frequent words that are not known, most frequent first.

    Words with control characters are left out, because :meth:`Vocabulary.load` refuses them.
    """
    kept = [
        word
        for word, count in counts.items()
        if count >= min_count and word not in known and not _has_control(word)
    ]
    return sorted(kept, key=lambda word: (-counts[word], word))
