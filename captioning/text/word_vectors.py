"""Reader of pretrained word vectors in the text format of GloVe, word2vec and fastText."""

import gzip
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Float

from captioning.errors import DataError
from captioning.messages import explain_error

_MAX_LINE = 1 << 20  # bytes; a binary file has no lines, and must not be read at once
_TEXT_SHOWN = 40


def check_word_vectors(path: Path, size: int) -> None:
    """Check that a file can be read and has vectors of a size.

    Raises:
        DataError: It cannot be read, or has vectors of another size.
    """
    with _open_vectors(path, size):
        pass


def read_word_vectors(
    path: Path, words: Collection[str], size: int
) -> dict[str, Float[np.ndarray, " E"]]:
    """Return the vectors of the words that are in a file.

    Only these vectors are kept in memory, and only their lines are parsed as numbers.

    Args:
        path: Text file with a word and its numbers per line, separated by spaces. A first line
            with the number of words and E, as in word2vec and fastText, is skipped. With ``.gz``
            or ``.zip``, the file is decompressed; of the files in a zip archive, one with
            vectors of this size is read.
        words: Words to look up.
        size: E, numbers per vector.

    Raises:
        DataError: The file cannot be read, has vectors of another size, or has a bad line.
    """
    wanted = {word.encode() for word in words}
    found: dict[str, np.ndarray] = {}
    with _open_vectors(path, size) as file:
        for number, line in enumerate(_read_lines(file), 1):
            first = line.split(None, 1)
            if not line or (number == 1 and _is_header(line)):
                continue
            if line.count(b" ") + line.count(b"\t") < size:
                raise _bad_line(path, number, line, size)
            if first[0] not in wanted:
                continue
            word, *numbers = line.rsplit(None, size)  # some words of GloVe contain spaces
            if word not in wanted or word.decode() in found:
                continue
            try:
                vector = np.array(numbers, dtype=np.float32)
            except ValueError:
                raise _bad_line(path, number, line, size) from None
            if len(vector) != size or not np.isfinite(vector).all():
                raise _bad_line(path, number, line, size)
            found[word.decode()] = vector
    return found


@contextmanager
def _open_vectors(path: Path, size: int) -> Iterator[BufferedIOBase]:
    """Open the text whose first vector has ``size`` numbers."""
    try:
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                sizes = {}
                for name in archive.namelist():
                    with archive.open(name) as member:
                        sizes[_find_size(cast(BufferedIOBase, member))] = name
                if size not in sizes:
                    raise _wrong_size(path, sorted({*sizes} - {0}), size)
                with archive.open(sizes[size]) as member:
                    yield cast(BufferedIOBase, member)
            return
        opener = gzip.open if path.suffix.lower() == ".gz" else open
        with opener(path, "rb") as file:
            found = _find_size(file)
        if found != size:
            raise _wrong_size(path, [found] if found else [], size)
        with opener(path, "rb") as file:
            yield file
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(
            f"cannot read '{path}': {explain_error(error)}. Check the path, or download the file "
            "again."
        ) from error


def _read_lines(file: BufferedIOBase) -> Iterator[bytes]:
    """Yield the lines without white space at their ends; very long ones in parts."""
    while line := file.readline(_MAX_LINE):
        yield line.rstrip()


def _is_header(line: bytes) -> bool:
    """Return whether a line has the number of words and the size of their vectors."""
    fields = line.split()
    return len(fields) == 2 and all(field.isdigit() for field in fields)


def _find_size(file: BufferedIOBase) -> int:
    """Return the number of numbers in the first line with a vector; 0 if there are none."""
    for line in _read_lines(file):
        if not _is_header(line):
            return max(0, len(line.split()) - 1)
    return 0


def _wrong_size(path: Path, found: list[int], size: int) -> DataError:
    if not found:
        return DataError(
            f"'{path}' has no word vectors. Use a text file with a word and its numbers per line, "
            "such as glove.6B.300d.txt."
        )
    sizes = ", ".join(map(str, found))
    return DataError(
        f"the vectors of '{path}' have {sizes} numbers, and embedding_size is {size}. Set "
        f"embedding_size to {sizes.replace(', ', ' or ')}, or use vectors with {size} numbers."
    )


def _bad_line(path: Path, number: int, line: bytes, size: int) -> DataError:
    start = line[:_TEXT_SHOWN].decode(errors="replace")
    count = max(0, len(line.split()) - 1)
    return DataError(
        f"'{path}', line {number}: expected a word and {size} numbers, found {count} fields after "
        f"{start!r}. Download the file again, or remove the line."
    )
