"""The tokenizer against frozen words of the original, and against the original where Java is."""

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

CASES = json.loads((Path(__file__).parent / "tokenizer_cases.json").read_text(encoding="utf-8"))
"""Captions written for this test, with the words that Java printed for them."""


CHUNKS = ("a", "dog's", "well-known", ",", "grey", "2", "tail", "cannot", "-", "&", "it's")


def official(captions: list[str]) -> list[list[str]]:
    """Ask the Java tokenizer, one caption to a line, as pycocoevalcap does."""
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
    return [
        [word for word in line.rstrip().split(" ") if word and word not in PUNCTUATION]
        for line in lines
    ]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["caption"][:30])
def test_words_are_those_the_original_printed(case):
    assert tokenize(case["caption"]) == case["words"]


@require_tool("Java and pycocoevalcap", bool(shutil.which("java") and find_spec("pycocoevalcap")))
def test_a_file_of_captions_is_read_as_the_original_reads_it():
    # Two orders: what follows a caption may matter, and both must agree with the original.
    captions = [case["caption"] for case in CASES]
    for lines in (captions, captions[::-1]):
        assert tokenize_lines(lines) == official(lines)


@pytest.mark.parametrize(
    ("following", "last"), [("The cat", "k"), ("A cat", "k"), ("cat", "k."), ("Cats", "k.")]
)
def test_a_final_initial_leans_on_the_next_line(following, last):
    assert tokenize_lines(["it reads K.", following])[0] == ["it", "reads", last]


def test_a_caption_alone_is_a_file_of_one_line():
    assert tokenize_lines(["it reads K."]) == [tokenize("it reads K.")]
    assert tokenize_lines([]) == []


@given(st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_text_gives_lower_case_words_without_blanks_at_their_ends(text):
    words = tokenize(text)
    assert all(word and word == word.lower() and " " not in word for word in words)
    assert not PUNCTUATION & set(words)


@given(st.lists(st.sampled_from(CHUNKS)))
def test_remembered_chunks_do_not_change_words(chunks):
    # A tab in place of a blank sends the caption past the memory of chunks.
    caption = " ".join(chunks)
    assert tokenize(caption) == tokenize(caption.replace(" ", "\t"))


def test_a_long_hostile_caption_takes_no_time_to_speak_of():
    for text in ("a." * 2000, "a-" * 2000, "&" * 4000, "1," * 2000, "<a " * 1500, "a@" * 1000):
        tokenize(text)
