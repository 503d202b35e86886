"""Which images are not captioned: those with a caption from an earlier run, and duplicates."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from captioning.bulk.cluster.rows import DIGEST, describe_duplicate, is_duplicate, read_records
from captioning.bulk.cluster.storage import OutputFolder
from captioning.bulk.rows import RelativeNames
from captioning.errors import ConfigError
from captioning.images.image_ref import ImageRef
from captioning.sources.given_names import is_url

_HASH_BYTES = 16
_CLAIMED_AT_ONCE = 64  # images
_BYTES_AT_ONCE = 64 << 20  # of their contents, which are in memory

Claim = Callable[[int, Sequence[tuple[bytes, str]]], list[tuple[int, str]]]
""":meth:`DigestRegistry.claim`."""


@dataclass
class InputImage:
    """An image of a partition, with what its row needs."""

    image: ImageRef
    kept: dict[str, Any]
    """Columns of the input to keep."""
    digest: str = ""
    """SHA-256 of the file; empty if it is not needed."""


def hash_captioned_names(outputs: Iterable[str]) -> "np.ndarray[Any, Any]":
    """Return sorted hashes of the names of all images that earlier outputs have captions for.

    A duplicate has the caption of its original.

    Args:
        outputs: Folders or files that ``captioning caption`` has written.

    Raises:
        ConfigError: An output has no rows.
        OutputError: It cannot be read.
    """
    hash_name = _NameHasher()
    hashes = (
        hash_name(name if is_url(name) else os.path.join(folder, name))  # noqa: PTH118
        for output in outputs
        for folder, file, content in _read_output(output)
        for name in _captioned_names(file, content)
    )
    return np.sort(np.fromiter(hashes, f"S{_HASH_BYTES}"))


def _captioned_names(file: str, content: bytes) -> Iterator[str]:
    for record in read_records(file, content, ("file_name", "error")):
        if not record["error"] or is_duplicate(record["error"]):
            yield str(record["file_name"])


def _read_output(output: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield folder, name and content of the files of an output."""
    place = output if is_url(output) else os.path.abspath(output)  # noqa: PTH100
    if output.endswith((".jsonl", ".parquet")):
        place, _, name = place.rpartition("/")
        content = OutputFolder(place).read(name)
        parts = iter([] if content is None else [(name, content)])
    else:
        parts = OutputFolder(place).parts()
    if (first := next(parts, None)) is None:
        raise ConfigError(f"--skip-rows-of: '{output}' has no rows. Check the path.")
    yield from ((place, name, content) for name, content in chain([first], parts))


class _NameHasher:
    """Hashes absolute paths and URLs; a path through a link has the hash of its target."""

    def __init__(self) -> None:
        self._names = RelativeNames(Path(os.sep) / "rows")

    def __call__(self, name: str) -> bytes:
        text = self._names.name_of(name).encode("utf-8", "backslashreplace")  # as in rows
        return hashlib.blake2b(text, digest_size=_HASH_BYTES).digest()


def skip_captioned(
    images: Iterable[InputImage], captioned: "np.ndarray[Any, Any]"
) -> Iterator[InputImage]:
    """Yield the images whose names are not among those of :func:`hash_captioned_names`."""
    hash_name = _NameHasher()
    for each in images:
        key = np.array(hash_name(each.image.name), captioned.dtype)
        position = int(np.searchsorted(captioned, key))
        if position == len(captioned) or captioned[position] != key:
            yield each


def mark_duplicates(
    images: Iterable[InputImage],
    claim: Claim,
    partition: int,
    name_of: Callable[[str], str],
    readers: int,
) -> Iterator[InputImage]:
    """Yield images with their digests; one whose content another image has gets an error.

    Args:
        images: The images.
        claim: Returns the first image with each digest in the whole run.
        partition: Number of the partition.
        name_of: Returns the name of an image in the output.
        readers: Number of files that are read at the same time.
    """
    first: dict[str, str | None] = {}  # by digest; None if it comes in this partition
    remaining = iter(images)
    with ThreadPoolExecutor(max(1, readers)) as executor:
        while read := _read_some(remaining, executor, max(1, readers)):
            new = {
                each.digest: name_of(each.image.name)
                for each in reversed(read)  # the first one with a digest remains
                if each.digest and each.digest not in first
            }
            owners = claim(
                partition, [(bytes.fromhex(digest), name) for digest, name in new.items()]
            )
            for digest, (owner, name) in zip(new, owners, strict=True):
                first[digest] = None if owner == partition else name
            for each in read:
                if each.digest and (original := first[each.digest]) is not None:
                    each.image = _fail(each.image, describe_duplicate(original))
                elif each.digest:
                    first[each.digest] = name_of(each.image.name)
                yield each


def _read_some(
    images: Iterator[InputImage], executor: ThreadPoolExecutor, readers: int
) -> list[InputImage]:
    """Return the next images with their digests; few if their contents are large."""
    read: list[InputImage] = []
    size = 0
    while len(read) < _CLAIMED_AT_ONCE and size < _BYTES_AT_ONCE:
        some = [*executor.map(_read_content, islice(images, readers))]
        if not some:
            break
        read += some
        size += sum(
            len(each.image.content) for each in some if isinstance(each.image.content, bytes)
        )
    return read


def _fail(image: ImageRef, error: str) -> ImageRef:
    return replace(image, content=None, error=error)


def _read_content(each: InputImage) -> InputImage:
    """Return an image with its content and its digest, or with the reason why it has none."""
    image = each.image
    if image.error:
        return each
    try:
        if callable(image.content):
            image = replace(image, content=image.content())
        content = image.content
        if not isinstance(content, bytes):
            with open(image.name, "rb") as file:  # noqa: PTH123  (names of any bytes)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        else:
            digest = hashlib.sha256(content).hexdigest()
    except OSError as error:
        if image.content is None:
            return each  # the reader of the image explains it
        return replace(each, image=_fail(image, f"cannot fetch '{image.name}': {error}"))
    return replace(each, image=image, digest=digest)


class DigestRegistry:
    """The first image with each content, in the whole run.

    An image needs about 250 bytes.

    Args:
        folder: Output of the run, whose complete partitions are read.
        partitions: Numbers of these partitions.
    """

    def __init__(self, folder: OutputFolder, partitions: Sequence[int]) -> None:
        self._first: dict[bytes, tuple[int, str]] = {}
        for partition in partitions:
            name = folder.part_name(partition)
            records = read_records(
                name, folder.read_part(partition), ("file_name", "error", DIGEST)
            )
            for record in records:
                if record[DIGEST] and not is_duplicate(record["error"]):
                    self._first[bytes.fromhex(record[DIGEST])] = (partition, record["file_name"])

    def claim(self, partition: int, images: Sequence[tuple[bytes, str]]) -> list[tuple[int, str]]:
        """Return partition and name of the first image with each digest.

        Args:
            partition: Number of the partition of the images.
            images: Digest and name of each image; it is the first one if there is none yet.
        """
        return [self._first.setdefault(digest, (partition, name)) for digest, name in images]
