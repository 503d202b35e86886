"""The words a model knows, and their ids."""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from captioning.errors import VocabularyError

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
SPECIALS = (PAD, BOS, EOS, UNK)
NEVER_GENERATED = tuple(SPECIALS.index(special) for special in (PAD, BOS, UNK))
"""Ids that no caption may contain; ``<eos>`` ends a caption."""
_CONTROLS = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode's categories of what moves a terminal, breaks a line, or is half a character."""
_CLITICS = frozenset({"'s", "'re", "'ve", "'ll", "'d", "'m", "n't"})


class Vocabulary:
    """An immutable list of words; a word's place in it is its id.

    The first four words are the specials ``<pad>``, ``<bos>``, ``<eos>`` and ``<unk>``.

    Args:
        words: All words in id order, specials first.

    Raises:
        VocabularyError: A special is missing or misplaced, or a word is repeated or no string.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words: tuple[str, ...] = tuple(words)
        if self.words[: len(SPECIALS)] != SPECIALS:
            raise VocabularyError(
                f"A vocabulary begins with {', '.join(SPECIALS)}; "
                f"this one begins with {list(self.words[:4])}. Was it written by Vocabulary.save?"
            )
        if not all(isinstance(word, str) and word for word in self.words):
            raise VocabularyError("Every word of a vocabulary is a non-empty string.")
        self._ids = {word: i for i, word in enumerate(self.words)}
        if len(self._ids) != len(self.words):
            twice = [word for word, count in Counter(self.words).items() if count > 1]
            raise VocabularyError(f"These words stand twice in the vocabulary: {twice[:5]}.")
        self.pad, self.bos, self.eos, self.unk = range(len(SPECIALS))

    @classmethod
    def build(cls, captions: Iterable[Sequence[str]], *, min_count: int = 5) -> "Vocabulary":
        """Count the words of tokenized captions and keep those seen ``min_count`` times or more.

        Words come in order of falling count, equal counts in alphabetical order, so that the same
        captions give the same ids on every machine. Words with control characters or half
        characters in them are left out.
        """
        counts = Counter(word for caption in captions for word in caption)
        kept = _frequent(counts, min_count, set(SPECIALS))
        if not kept:
            raise VocabularyError(
                f"No word occurs {min_count} times among {counts.total()} words. "
                "Give more captions or a lower min_count."
            )
        return cls([*SPECIALS, *kept])

    def extended(self, captions: Iterable[Sequence[str]], *, min_count: int = 5) -> "Vocabulary":
        """Return these words, and after them the new ones that :meth:`build` would keep."""
        counts = Counter(word for caption in captions for word in caption)
        return Vocabulary([*self.words, *_frequent(counts, min_count, set(self.words))])

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._ids

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.words == other.words

    def __hash__(self) -> int:
        return hash(self.words)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} words)"

    def id(self, word: str) -> int:
        """Return the id of ``word``, or that of ``<unk>``."""
        return self._ids.get(word, self.unk)

    def encode(self, words: Sequence[str]) -> list[int]:
        """Return the ids of tokenized ``words`` with ``<bos>`` before and ``<eos>`` after them."""
        return [self.bos, *(self.id(word) for word in words), self.eos]

    def decode(self, tokens: Iterable[int]) -> list[str]:
        """Return the words up to the first ``<eos>``, without ``<pad>`` and ``<bos>``.

        An ``<unk>`` stays visible: search never emits one, so a reader should see where one came.

        Raises:
            VocabularyError: A token is not an id of this vocabulary.
        """
        words = []
        for token in tokens:
            if not 0 <= token < len(self):
                raise VocabularyError(
                    f"Token {token} is outside this vocabulary of {len(self)} words. "
                    "The model and the vocabulary do not belong together."
                )
            if token == self.eos:
                break
            if token not in (self.pad, self.bos):
                words.append(self.words[token])
        return words

    def save(self, path: Path) -> None:
        """Write the words in id order as JSON."""
        text = json.dumps({"words": self.words}, ensure_ascii=False, indent=0)
        path.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Read what :meth:`save` wrote.

        Raises:
            VocabularyError: The file is no such vocabulary.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise VocabularyError(f"{path} cannot be read as a vocabulary: {error}") from error
        try:
            return cls.from_json(content)
        except VocabularyError as error:
            raise VocabularyError(f"{path}: {error}") from error

    @classmethod
    def from_json(cls, content: object) -> "Vocabulary":
        """Return the vocabulary that :meth:`save` wrote as this JSON object.

        Raises:
            VocabularyError: It is no such object, or a word breaks the line it is printed in.
        """
        words = content.get("words") if isinstance(content, dict) else None
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise VocabularyError(
                'This is no vocabulary: {"words": [...]} with strings was expected. '
                "Was it written by Vocabulary.save?"
            )
        for word in words:
            if _has_control(word):
                raise VocabularyError(
                    f"The word {word[:50]!r} of the vocabulary holds a control character. "
                    "Copy the file again, or take the word from another model."
                )
        return cls(words)


def _has_control(word: str) -> bool:
    return not word.isprintable() and any(unicodedata.category(c) in _CONTROLS for c in word)


def _frequent(counts: Counter[str], min_count: int, known: set[str]) -> list[str]:
    """Return the words seen often enough that are not known, the most frequent first.

    What :meth:`Vocabulary.from_json` would refuse is no word.
    """
    kept = [
        word
        for word, count in counts.items()
        if count >= min_count and word not in known and not _has_control(word)
    ]
    return sorted(kept, key=lambda word: (-counts[word], word))


def join_words(words: Iterable[str]) -> str:
    """Join PTB words to a readable caption: ``the dog 's tail`` → ``the dog's tail``."""
    text = ""
    for word in words:
        text += word if word in _CLITICS or not text else f" {word}"
    return text
