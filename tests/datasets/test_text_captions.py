"""Captions without images, grouped by key."""

import gzip

import pytest

from captioning.datasets import read_text_captions
from captioning.errors import DataError


@pytest.mark.parametrize(
    ("name", "content", "captions"),
    [
        (
            "keys.tsv",
            b"7\ta cat\n\n8\t a bus \n7\ta cat on a mat\n9\t \n",
            {"7": ("a cat", "a cat on a mat"), "8": ("a bus",)},
        ),
        (
            "compressed.txt.gz",
            gzip.compress("a caf\u00e9\na cat\n".encode(), mtime=0),
            {"1": ("a caf\u00e9",), "2": ("a cat",)},
        ),
        (
            "separators.tsv",  # characters that str.splitlines would split at
            "7\ta cat\u2028on a mat\r\n8\ta bus\x0c\n".encode(),
            {"7": ("a cat\u2028on a mat",), "8": ("a bus",)},
        ),
    ],
)
def test_text_captions_are_grouped_by_key(tmp_path, name, content, captions):
    (tmp_path / name).write_bytes(content)
    assert read_text_captions(tmp_path / name) == captions


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.txt", b"a cat\n7\ta dog\n", "line 2: '7.* has a tab.*KEY<TAB>caption"),
        ("text.txt", b"\n \n", "has no captions"),
        ("text.txt", b"caf\xe9", "not UTF-8"),
        ("text.txt", None, "cannot read"),
        ("text.gz", b"not compressed", "cannot read"),
        ("text.gz", gzip.compress(b"a cat\n" * 50, mtime=0)[:-9], "cannot read"),
    ],
)
def test_text_captions_unusable_file_is_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_text_captions(tmp_path / name)
