"""PTB tokenizer against stored words of the original, and against the original itself."""

import json
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from required_tools import require_tool

from captioning.text.tokenizer import PUNCTUATION, tokenize, tokenize_lines

# Captions written for this test, with the words that the Java tokenizer printed for them.
CASES = json.loads((Path(__file__).parent / "tokenizer_cases.json").read_text(encoding="utf-8"))
CHUNKS = ("a", "dog's", "well-known", ",", "grey", "2", "tail", "cannot", "-", "&", "it's")


def tokenize_with_java(captions):
    """Run the Java tokenizer with one caption per line, as pycocoevalcap does."""
    folder = Path(next(iter(find_spec("pycocoevalcap").submodule_search_locations))) / "tokenizer"
    done = subprocess.run(
        [
            *("java", "-cp", folder / "stanford-corenlp-3.4.1.jar"),
            *("edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"),
        ],
        input="\n".join(caption.replace("\n", " ") for caption in captions).encode(),
        capture_output=True,
        check=True,
    )
    lines = done.stdout.decode().split("\n")[: len(captions)]
    return [[w for w in line.rstrip().split(" ") if w and w not in PUNCTUATION] for line in lines]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["caption"][:30])
def test_tokenize_equals_stored_words(case):
    assert tokenize(case["caption"]) == case["words"]


@require_tool("Java and pycocoevalcap", bool(shutil.which("java") and find_spec("pycocoevalcap")))
def test_tokenize_lines_equals_java():
    # Two orders, because words may depend on the next line.
    captions = [case["caption"] for case in CASES]
    for lines in (captions, captions[::-1]):
        assert tokenize_lines(lines) == tokenize_with_java(lines)


@pytest.mark.parametrize(
    ("following", "last"), [("The cat", "k"), ("A cat", "k"), ("cat", "k."), ("Cats", "k.")]
)
def test_tokenize_lines_final_initial_depends_on_next_line(following, last):
    assert tokenize_lines(["it reads K.", following])[0] == ["it", "reads", last]


def test_tokenize_lines_single_caption_equals_tokenize():
    assert tokenize_lines(["it reads K."]) == [tokenize("it reads K.")]
    assert tokenize_lines([]) == []


@given(st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_tokenize_any_text_gives_lower_case_words(text):
    words = tokenize(text)
    assert all(word and word == word.lower() and " " not in word for word in words)
    assert not PUNCTUATION & set(words)


@given(st.lists(st.sampled_from(CHUNKS)))
def test_tokenize_cached_chunks_give_the_same_words(chunks):
    # A tab in place of a space bypasses the cache of chunks.
    caption = " ".join(chunks)
    assert tokenize(caption) == tokenize(caption.replace(" ", "\t"))


@pytest.mark.parametrize("unit", ["a.", "a-", "&&", "1,", "<a ", "a@"])
def test_tokenize_repetitive_text_is_fast(unit):
    tokenize(unit * 2000)
