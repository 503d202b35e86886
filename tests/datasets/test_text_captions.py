import gzip

import pytest

from captioning.datasets import read_text_captions
from captioning.errors import DataError


def test_captions_of_one_key_are_kept_together(tmp_path):
    file = tmp_path / "text.tsv"
    file.write_text("7\ta cat\n\n8\t a bus \n7\ta cat on a mat\n9\t \n", encoding="utf-8")
    assert read_text_captions(file) == {"7": ("a cat", "a cat on a mat"), "8": ("a bus",)}


def test_lines_without_keys_stand_alone_and_may_be_compressed(tmp_path):
    file = tmp_path / "text.txt.gz"
    file.write_bytes(gzip.compress("a caf\u00e9\na cat\n".encode()))
    assert read_text_captions(file) == {"1": ("a caf\u00e9",), "2": ("a cat",)}


def test_a_caption_may_hold_what_elsewhere_ends_a_line(tmp_path):
    file = tmp_path / "text.tsv"
    file.write_bytes("7\ta cat\u2028on a mat\r\n8\ta bus\x0c\n".encode())
    assert read_text_captions(file) == {"7": ("a cat\u2028on a mat",), "8": ("a bus",)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a cat\n7\ta dog\n", "line 2.*KEY<TAB>caption"),
        (b"\n \n", "holds no caption"),
        (b"caf\xe9", "not UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_unusable_text_is_said(tmp_path, content, said):
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_text_captions(file)


def test_damaged_compressed_text_is_said(tmp_path):
    file = tmp_path / "text.gz"
    for content in (b"no gzip", gzip.compress(b"a cat\n" * 50)[:-9]):
        file.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            read_text_captions(file)
