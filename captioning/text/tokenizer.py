"""PTB tokenizer: the words of the official caption scorer, without Java.

Caption scores are computed on the words of the Stanford PTB tokenizer 3.4.1 as pycocoevalcap 1.2
calls it: with ``-preserveLines -lowerCase``, followed by removal of a fixed list of punctuation.
:func:`tokenize` returns the same words for a caption that is alone in its file.

Brackets become the words ``-lrb-`` and ``-rrb-``, as in pycocoevalcap: in lower case they do not
match the list of punctuation.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from captioning.text.ptb_rules import RULES, Kind

PUNCTUATION = frozenset(
    "'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split()  # noqa: SIM905
)
"""Words that pycocoevalcap removes after tokenizing."""

# The words of these chunks can be cached: no rule looks beyond the space that follows them (or
# beyond the letter after that space, if the chunk is a number). The same holds for a last word and
# its period.
_WORDS = r"[A-Za-z]+(?:[-'][A-Za-z]+)*"
_CHUNKS = rf"(?:{_WORDS}'?,?|[-,:;&\"']|[0-9]+(?= [A-Za-z]))"
_CHUNK = re.compile(rf"{_CHUNKS}(?= )")
_LAST_CHUNK = re.compile(rf"(?:{_WORDS})?\.?")

# All other chunks of letters are one word.
_SPLIT_WORDS = frozenset(["cannot", "gonna", "gotta", "lemme", "gimme", "wanna"])
# After these last words, the words depend on the beginning of the next line.
_DEPENDS_ON_NEXT_LINE = re.compile(
    r"(?:[A-Za-z]|ca|nos?|figs?|prop|art|bldg|pp|op)\.?", re.IGNORECASE
)
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
    """Split a caption into lower-case words without punctuation.

    >>> tokenize("A man's dog, gray and wet, can't swim.")
    ['a', 'man', "'s", 'dog', 'gray', 'and', 'wet', 'ca', "n't", 'swim']

    Args:
        caption: Any text. Line breaks count as spaces.

    Returns:
        The words. A word may contain a non-breaking space: ``"1 1/2"`` is one word.
    """
    return _tokenize(caption.replace("\n", " "), "")


def tokenize_lines(captions: Sequence[str]) -> list[list[str]]:
    """Split many captions into words, as if they were the lines of one file.

    pycocoevalcap writes such a file, and its lexer looks beyond the end of a line: a caption that
    ends in ``"reads K."`` keeps the period in its last word, unless the next caption begins with a
    word such as ``The``. Use this function for scores that must equal the official ones, and
    :func:`tokenize` for everything else.

    Args:
        captions: Captions in the order in which the official scorer writes them.

    Returns:
        The words of each caption.
    """
    words: list[list[str]] = []
    following = ""
    for caption in reversed(captions):
        line = caption.replace("\n", " ")
        words.append(_tokenize(line, following))
        following = line if line.strip() else f"{line}\n{following}"[:_LOOKAHEAD]
    return words[::-1]


def _tokenize(line: str, following: str) -> list[str]:
    *chunks, last = line.rstrip(" ").split(" ")
    if (end := _split_last_chunk(last)) is not None:
        plain: list[str] = []
        for chunk in chunks:
            if (part := _split_free_chunk(chunk)) is None:
                break
            plain += part
        else:
            plain += end
            return plain
    text = f"{line}\n{following[:_LOOKAHEAD]}\n"
    if line.isascii() or max(line) <= "\uffff":
        return _remove_punctuation(_split_words(text, len(line)))
    # The original reads UTF-16: a character beyond the basic plane is two characters for it.
    units = _split_surrogates(line)
    words = _split_words(f"{units}\n{_split_surrogates(following[:_LOOKAHEAD])}\n", len(units))
    return _remove_punctuation([_join_surrogates(word) for word in words])


def _remove_punctuation(words: list[str]) -> list[str]:
    """Remove punctuation like pycocoevalcap, which first strips the joined words."""
    stripped = " ".join(words).rstrip()
    return [word for word in stripped.split(" ") if word and word not in PUNCTUATION]


@lru_cache(maxsize=1 << 16)
def _split_free_chunk(chunk: str) -> tuple[str, ...] | None:
    """Return the words of text between two spaces. None: they depend on more text."""
    match = _CHUNK.match(f"{chunk} ")
    if chunk and (match is None or match.end() < len(chunk)):
        return None
    return _split_chunk(chunk)


@lru_cache(maxsize=1 << 16)
def _split_chunk(chunk: str) -> tuple[str, ...]:
    """Return the words of a chunk that is followed by a space."""
    if chunk.isalpha() and chunk.lower() not in _SPLIT_WORDS:
        return (chunk.lower(),)
    return tuple(_remove_punctuation(_split_words(chunk + " ", len(chunk))))


@lru_cache(maxsize=1 << 16)
def _split_last_chunk(chunk: str) -> tuple[str, ...] | None:
    """Return the words of text between a space and a line end. None: they depend on more text."""
    if not _LAST_CHUNK.fullmatch(chunk) or _DEPENDS_ON_NEXT_LINE.fullmatch(chunk):
        return None
    return tuple(_remove_punctuation(_split_words(chunk + "\n", len(chunk))))


def _split_words(text: str, stop: int) -> list[str]:
    """Return the words and punctuation that begin before ``stop``; later text is context."""
    words: list[str] = []
    start, after_space = 0, False
    while start < stop:
        if text[start] == " ":
            start, after_space = start + 1, True
            continue
        if after_space and (chunk := _CHUNK.match(text, start)):
            words += _split_chunk(chunk[0])
            start = chunk.end()
            continue
        start, word = _find_longest_match(text, start)
        after_space = False
        if word:
            words.append(word.lower())
    return words


def _find_longest_match(text: str, start: int) -> tuple[int, str]:
    """Return the end of the word at ``start``, and its normalized text."""
    end, best, kind = start, None, Kind.SKIP
    for rule in RULES:
        match = rule.pattern.match(text, start)
        if match and match.end() > end:
            end, best, kind = match.end(), match, rule.kind
    if best is None:
        return start + 1, ""
    return best.end(1), _normalize(best[1], kind)


def _normalize(text: str, kind: Kind) -> str:
    """Return the normalized text of a match."""
    match kind:
        case Kind.WORD:
            text = text.replace("\xad", "") or "-"
        case Kind.OPENING | Kind.CLOSING:
            text = _normalize_quotes(text, opening=kind is Kind.OPENING)
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
        case Kind.SKIP:
            text = ""
    return text


def _normalize_quotes(text: str, *, opening: bool) -> str:
    """Write quotes as in the Penn Treebank: ``` `` ``` opens and ``''`` closes."""
    text = re.sub("&apos;|'", "`" if opening else "'", text)
    text = re.sub('"|&quot;', "``" if opening else "''", text)
    for pattern, written in _QUOTES:
        text = pattern.sub(written, text)
    return text


def _split_surrogates(text: str) -> str:
    """Replace each character beyond the basic plane by a pair of surrogates."""
    code = text.encode("utf-16-le", "surrogatepass")
    return "".join(chr(int.from_bytes(code[i : i + 2], "little")) for i in range(0, len(code), 2))


def _join_surrogates(word: str) -> str:
    """Replace each pair of surrogates by its character."""
    return word.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
