"""Reader of pretrained word vectors, against NumPy's reader of tables."""

import gzip
import zipfile

import numpy as np
import pytest

from captioning.errors import DataError
from captioning.text.word_vectors import check_word_vectors, read_word_vectors

LINES = [
    "the 0.1 -0.2 3e-1 4 5",
    ". . . 9 9 9 9 9",
    "n't 1.5 -2.5 3.5 -4.5 5.5",
    "größe 1 2 3 4 5",
    "the 7 7 7 7 7",
    "dog -0.5 0.25 0.125 1e2 -7",
]
TEXT = "\n".join(LINES) + "\n"
WORDS = ["the", "größe", "n't", "zebra", "."]


def write(path, text=TEXT):
    data = text.encode()
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(data))
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("vectors.2d.txt", "the 1 2\n")
            archive.writestr("vectors.5d.txt", data)
    else:
        path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["v.txt", "v.vec", "v.txt.gz", "v.zip", "v.tabs"])
def test_word_vectors_equal_the_numbers_of_the_file(name, tmp_path):
    text = {"v.vec": f"6 5\n{TEXT.replace(chr(10), ' ' + chr(10))}", "v.tabs": TEXT}.get(name, TEXT)
    if name == "v.tabs":
        text = text.replace(". . . ", "").replace(" ", "\t").replace("9\t9\t9\t9\t9\n", "")
    found = read_word_vectors(write(tmp_path / name, text), WORDS, 5)
    rows = [0, 2, 3]  # the first of two lines of a word counts
    words = np.loadtxt([LINES[i] for i in rows], dtype=str, usecols=0)
    values = np.loadtxt([LINES[i] for i in rows], dtype=np.float32, usecols=range(1, 6))
    assert list(found) == words.tolist()
    np.testing.assert_array_equal(np.stack(list(found.values())), values)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("v.txt", "5"), ("v.txt.gz", "5"), ("v.zip", "2 or 5")],
)
def test_word_vectors_of_other_size_name_the_size(name, sizes, tmp_path):
    with pytest.raises(DataError, match=rf"embedding_size is 7\. Set embedding_size to {sizes},"):
        check_word_vectors(write(tmp_path / name), 7)


@pytest.mark.parametrize(
    "line",
    ["zebra 1 2 3 4", "zebra 1 2 3 4 x", "zebra 1 2 3 4 nan", "cat 1 2", "zebra", "x" * (1 << 21)],
)
def test_bad_line_of_word_vectors_is_named(line, tmp_path):
    path = write(tmp_path / "v.txt", "\n".join([*LINES[:2], line, *LINES[2:]]))
    with pytest.raises(DataError, match=r"v\.txt', line 3: expected a word and 5 numbers"):
        read_word_vectors(path, WORDS, 5)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("v.txt", None, "No such file"),
        ("v.txt", b"", "has no word vectors"),
        ("v.txt", b"6 5\n", "has no word vectors"),
        ("v.txt.gz", gzip.compress(TEXT.encode() * 500)[:200], "end-of-stream"),
        ("v.txt.gz", b"no gzip", "Not a gzipped file"),
        ("v.zip", b"no archive", "not a zip file"),
    ],
)
def test_unreadable_word_vectors_are_refused(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_word_vectors(tmp_path / name, WORDS, 5)
