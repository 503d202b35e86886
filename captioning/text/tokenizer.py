"""Captions to words, exactly as the official scorer splits them, but without Java.

The scores of this field are computed on the words of the Stanford PTB tokenizer 3.4.1 as
pycocoevalcap 1.2 calls it: ``-preserveLines -lowerCase``, with a fixed list of punctuation dropped
afterwards. :func:`tokenize` gives the same words for a caption that stands alone on its line.

One oddity of the original is kept, because scores depend on it: brackets become the words
``-lrb-`` and ``-rrb-``, since lower case hides them from the punctuation list.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from captioning.text.ptb_rules import RULES, Kind

PUNCTUATION = frozenset(
    "'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split()  # noqa: SIM905
)
"""What pycocoevalcap drops after tokenizing."""

# No rule looks from a chunk like these past the blank behind it (from a number: past the letter
# behind that blank), so that its words can be remembered. The same holds for a last word and its
# period.
_WORDS = r"[A-Za-z]+(?:[-'][A-Za-z]+)*"
_CHUNKS = rf"(?:{_WORDS}'?,?|[-,:;&\"']|[0-9]+(?= [A-Za-z]))"
_CHUNK = re.compile(rf"{_CHUNKS}(?= )")
_PLAIN = re.compile(rf"(?:{_CHUNKS} +)*(?:{_WORDS})? *\.? *")

# Letters alone are one word, but for these.
_SPLIT_WORDS = frozenset(["cannot", "gonna", "gotta", "lemme", "gimme", "wanna"])
# After a last word like these it matters what the next line begins with.
_LEANS_ON_NEXT = re.compile(r"(?:[A-Za-z]|ca|nos?|figs?|prop|art|bldg|pp|op)\.?", re.IGNORECASE)
_LOOKAHEAD = 64

_SIGNS = {
    "(": "-LRB-", ")": "-RRB-", "{": "-LCB-", "}": "-RCB-", "[": "-LSB-", "]": "-RSB-",
    "&lt;": "<", "&gt;": ">", "\xa2": "cents", "\xa3": "#",
    "\x80": "$", "\xa4": "$", "\u20a0": "$", "\u20ac": "$",
    "\xbc": "1/4", "\xbd": "1/2", "\xbe": "3/4", "\u2153": "1/3", "\u2154": "2/3",
}  # fmt: skip
_PARENTHESIS = re.compile(r"[()]")
_AMPERSAND = re.compile("&amp;", re.IGNORECASE | re.ASCII)
_QUOTES = (
    (re.compile("[\x91\u2018\u201b\u2039]"), "`"),
    (re.compile("[\x92\u2019\u203a]"), "'"),
    (re.compile("[\x93\u201c\xab]"), "``"),
    (re.compile("[\x94\u201d\xbb]"), "''"),
)


def tokenize(caption: str) -> list[str]:
    """Return the words of one caption, in lower case and without punctuation.

    >>> tokenize("A man's dog, grey and wet, can't swim.")
    ['a', 'man', "'s", 'dog', 'grey', 'and', 'wet', 'ca', "n't", 'swim']

    Args:
        caption: Any text. Line breaks count as blanks.

    Returns:
        The words; none for a caption without any. A word may hold a non-breaking blank
        (``"1 1/2"`` is one word).
    """
    return _tokenize(caption.replace("\n", " "), "")


def tokenize_lines(captions: Sequence[str]) -> list[list[str]]:
    """Return the words of many captions, as if they stood line by line in one file.

    This is how pycocoevalcap calls the original, whose lexer looks over the line end: a caption
    that ends in ``"reads K."`` keeps the period in its last word, unless the next caption begins
    with a word such as ``The``. Scores that must equal the official ones take this function; all
    else takes :func:`tokenize`.

    Args:
        captions: Captions in the order in which the official scorer would write them.

    Returns:
        The words of each caption, as :func:`tokenize` gives them.
    """
    words: list[list[str]] = []
    following = ""
    for caption in reversed(captions):
        line = caption.replace("\n", " ")
        words.append(_tokenize(line, following))
        following = line if line.strip() else f"{line}\n{following}"[:_LOOKAHEAD]
    return words[::-1]


def _tokenize(line: str, following: str) -> list[str]:
    if _PLAIN.fullmatch(line):
        *chunks, last = line.rstrip(" ").split(" ")
        if not _LEANS_ON_NEXT.fullmatch(last):
            plain: list[str] = []
            for chunk in chunks:
                plain += _chunk_words(chunk)
            plain += _last_words(last)
            return plain
    text = f"{line}\n{following[:_LOOKAHEAD]}\n"
    if line.isascii() or max(line) <= "\uffff":
        return _without_punctuation(_words(text, len(line)))
    # The original reads UTF-16: a character beyond the basic plane is two of its letters.
    units = _units(line)
    words = _words(f"{units}\n{_units(following[:_LOOKAHEAD])}\n", len(units))
    return _without_punctuation([_whole(word) for word in words])


def _without_punctuation(words: list[str]) -> list[str]:
    """Drop punctuation as pycocoevalcap does, which first strips the joined words."""
    stripped = " ".join(words).rstrip()
    return [word for word in stripped.split(" ") if word and word not in PUNCTUATION]


@lru_cache(maxsize=1 << 16)
def _chunk_words(chunk: str) -> tuple[str, ...]:
    """Return the words of a chunk that a blank follows."""
    if chunk.isalpha() and chunk.lower() not in _SPLIT_WORDS:
        return (chunk.lower(),)
    return tuple(_without_punctuation(_words(chunk + " ", len(chunk))))


@lru_cache(maxsize=1 << 16)
def _last_words(chunk: str) -> tuple[str, ...]:
    """Return the words of a chunk at the end of its line."""
    return tuple(_without_punctuation(_words(chunk + "\n", len(chunk))))


def _words(text: str, stop: int) -> list[str]:
    """Return the words, some punctuation included, that begin before ``stop``.

    What stands behind ``stop`` is the context in which they are read.
    """
    words: list[str] = []
    start, blank = 0, False
    while start < stop:
        if blank and (chunk := _CHUNK.match(text, start)):
            words += _chunk_words(chunk[0])
            start = chunk.end()
            continue
        end, word = _longest(text, start)
        blank = text[start] == " "
        start = end
        if word:
            words.append(word.lower())
    return words


def _longest(text: str, start: int) -> tuple[int, str]:
    """Return where the word at ``start`` ends, and that word as it is written in the end."""
    longest, found, kind = start, None, Kind.NOTHING
    for rule in RULES:
        match = rule.pattern.match(text, start)
        if match and match.end() > longest:
            longest, found, kind = match.end(), match, rule.kind
    if found is None:
        return start + 1, ""
    return found.end(1), _written(found[1], kind)


def _written(text: str, kind: Kind) -> str:
    """Return the word that stands for ``text``."""
    match kind:
        case Kind.WORD:
            text = text.replace("\xad", "") or "-"
        case Kind.OPENING | Kind.CLOSING:
            text = _quote(text, opening=kind is Kind.OPENING)
        case Kind.TAG | Kind.PHONE | Kind.SMILEY:
            text = text.replace(" ", "\xa0")
            if kind is not Kind.TAG:
                text = _PARENTHESIS.sub(lambda sign: _SIGNS[sign[0]], text)
        case Kind.ACRONYM:
            text = text[:-1] if len(text) == 2 else text
        case Kind.AMPERSAND:
            text = _AMPERSAND.sub("&", text)
        case Kind.SIGN:
            text = _SIGNS.get(text.lower(), text)
        case Kind.DASH:
            text = "--"
        case Kind.HYPHENS:
            text = "--" if len(text) in (3, 4) else text
        case Kind.ELLIPSIS:
            text = "..."
        case Kind.NOTHING:
            text = ""
    return text


def _quote(text: str, *, opening: bool) -> str:
    """Write quotes as the Penn Treebank does: ``` `` ``` opens and ``''`` closes."""
    text = re.sub("&apos;|'", "`" if opening else "'", text)
    text = re.sub('"|&quot;', "``" if opening else "''", text)
    for pattern, written in _QUOTES:
        text = pattern.sub(written, text)
    return text


def _units(text: str) -> str:
    """Write each character beyond the basic plane as a pair of surrogates."""
    code = text.encode("utf-16-le", "surrogatepass")
    return "".join(chr(int.from_bytes(code[i : i + 2], "little")) for i in range(0, len(code), 2))


def _whole(word: str) -> str:
    """Join pairs of surrogates to the characters that they stand for."""
    return word.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
