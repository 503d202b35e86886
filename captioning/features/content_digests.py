"""Digests of the content of images, and their cache on disk."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from captioning.features.locks import directory_lock
from captioning.features.records import RecordFile
from captioning.images.file_digest import digest_file, stat_file
from captioning.images.image_ref import ContainedImage, ImageRef
from captioning.track import OnProgress

DIGEST_BYTES = 16
_FILE = "digests.index"
_THREADS = 8
_CHUNK = 512  # images between two writes of the cache


def stamp_image(image: ImageRef) -> bytes | None:
    """Return 16 bytes that change with the path, size or times of an image.

    Returns None if the file does not exist, and for content that has no stamp.
    """
    path, place, stamp = image.name, "", image.stamp
    if isinstance(image.content, ContainedImage):
        path, place = image.content.path, image.content.place
    if image.content is None or place:
        path = os.path.abspath(path)  # noqa: PTH100  (resolve reads every parent folder)
        stamp = stat_file(path)[1]
    if not stamp:
        return None
    key = f"{path}\0{place}\0{stamp}".encode("utf-8", "surrogateescape")
    return hashlib.sha256(key).digest()[:DIGEST_BYTES]


def digest_images(
    images: Sequence[ImageRef],
    directory: Path,
    on_progress: OnProgress = lambda done, total: None,
) -> tuple[list[bytes | None], list[bytes | None]]:
    """Return the stamp and the digest of the content of each image.

    Digests are cached by stamp, so that an unchanged file is read once.

    Args:
        images: The images.
        directory: Directory of the cache.
        on_progress: Called with the number of images that were read and the number of those to
            read. Not called if all digests are cached.

    Returns:
        Stamps, and digests of 16 bytes. The digest of an image that cannot be read is None.

    Raises:
        OSError: The cache cannot be read.
    """
    file = RecordFile(directory / _FILE, 2 * DIGEST_BYTES)
    stamps = [stamp_image(image) for image in images]
    cached = {
        record[:DIGEST_BYTES]: record[DIGEST_BYTES:] for record in file.read() if record is not None
    }
    digests = [None if stamp is None else cached.get(stamp) for stamp in stamps]
    new = [
        row
        for row, image in enumerate(images)
        if digests[row] is None and (stamps[row] or image.content is not None)
    ]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="digests") as executor:
        for start in range(0, len(new), _CHUNK):
            on_progress(start, len(new))
            rows = new[start : start + _CHUNK]
            found = list(executor.map(_digest_image, [images[row] for row in rows]))
            for row, digest in zip(rows, found, strict=True):
                digests[row] = digest
            pairs = zip((stamps[row] for row in rows), found, strict=True)
            records = [stamp + digest for stamp, digest in pairs if stamp and digest]
            with suppress(OSError), directory_lock(directory):  # the store reports a full disk
                file.append(records)
    if new:
        on_progress(len(new), len(new))
    return stamps, digests


def is_unchanged(image: ImageRef, stamp: bytes | None, digest: bytes | None) -> bool:
    """Return whether an image still has the content that was digested.

    Its stamp alone can change without its content: by a hard link, a backup or new permissions.
    """
    return digest is not None and (stamp_image(image) == stamp or _digest_image(image) == digest)


def _digest_image(image: ImageRef) -> bytes | None:
    """Return the digest of an image, or None if it cannot be read."""
    content = image.content
    if content is None:
        digest = digest_file(image.name, stat_file(image.name)[1])
        return None if digest is None else bytes.fromhex(digest)[:DIGEST_BYTES]
    try:
        content = content() if callable(content) else content
    except OSError:
        return None  # reported when the image is loaded
    return hashlib.sha256(content).digest()[:DIGEST_BYTES]
