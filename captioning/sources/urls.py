"""Images behind URLs, of any file system that fsspec knows: ``s3://``, ``http://``, ``memory://``."""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import fsspec

from captioning.images.worker_pool import ImageRef
from captioning.sources.archives import LARGEST, archive_images, is_archive

if TYPE_CHECKING:
    from captioning.sources.find import Passed

_WILD = frozenset("*?[")


def url_images(
    url: str,
    *,
    recursive: bool,
    is_image_name: Callable[[str], bool],
    passed: "Passed",
    time_limit: float,
) -> Iterator[ImageRef]:
    """Yield the images of a file, a folder, a shard or a pattern somewhere else.

    Each is fetched when its turn comes. What cannot be reached, or does not answer, ends in a
    image that says so.

    Args:
        url: Of the form ``protocol://path``.
        recursive: Go into the folders of folders.
        is_image_name: Says of a file's name, without its folders, whether it is one.
        passed: Counts the files that are none, and folders that are not gone into.
        time_limit: Seconds after which the next image is no longer waited for.
    """
    ended, next_ones, left = object(), Queue[object](1), threading.Event()

    def look() -> None:
        for each in chain(_listed(url, recursive, is_image_name, passed), [ended]):
            while not left.is_set():
                with suppress(Full):
                    next_ones.put(each, timeout=0.2)
                    break

    threading.Thread(target=look, daemon=True).start()  # a server that never answers keeps it
    try:
        while (each := next_ones.get(timeout=time_limit)) is not ended:
            assert isinstance(each, ImageRef)
            yield each
    except Empty:
        yield ImageRef(
            url,
            error=f"{url} did not answer within {time_limit:g} seconds. Try again, or raise the "
            "time limit.",
        )
    finally:
        left.set()


def _listed(
    url: str, recursive: bool, is_image_name: Callable[[str], bool], passed: "Passed"
) -> Iterator[ImageRef]:
    try:
        system, path = fsspec.core.url_to_fs(url)
    except Exception as error:  # each file system raises kinds of its own
        advice = "Check what it names."
        if isinstance(error, ImportError):
            advice = 'Install that; for http: pip install "captioning[http]".'
        yield ImageRef(url, error=f"{url} cannot be opened: {_told(error)}. {advice}")
        return
    try:
        yield from _found(
            system, path, url, recursive=recursive, is_image_name=is_image_name, passed=passed
        )
    except Exception as error:  # each file system raises kinds of its own
        yield ImageRef(
            url, error=f"{url} cannot be listed: {_told(error)}. Check that it is there."
        )


def _found(
    system: Any,
    path: str,
    url: str,
    *,
    recursive: bool,
    is_image_name: Callable[[str], bool],
    passed: "Passed",
) -> Iterator[ImageRef]:
    from captioning.sources.find import unmatched

    protocol = url.partition("://")[0]
    if protocol not in ("http", "https"):  # a page is no folder, and ? there is no pattern
        if _WILD & set(path):
            matches = sorted(system.glob(path))
            for match in matches:
                yield from _file(system, match, system.unstrip_protocol(match), is_image_name)
            if not matches:
                yield unmatched(url)
            return
        if system.isdir(path):
            yield from _folder(system, path, recursive, is_image_name, passed)
            return
    yield from _file(system, path, url, is_image_name)


def _folder(
    system: Any, path: str, recursive: bool, is_image_name: Callable[[str], bool], passed: "Passed"
) -> Iterator[ImageRef]:
    from captioning.sources.find import natural

    for folder, folders, files in system.walk(path, maxdepth=None if recursive else 1):
        folders_in_order = sorted(folders, key=natural)
        entered = [each for each in folders_in_order if not each.startswith(".")]
        if isinstance(folders, list):
            folders[:] = entered
        if not recursive:
            passed.folders += len(entered)
        for name in sorted(files, key=natural):
            if is_image_name(name):
                full = f"{str(folder).rstrip('/')}/{name}"
                yield from _file(system, full, system.unstrip_protocol(full), is_image_name)
            else:
                passed.files += 1


def _file(
    system: Any, path: str, url: str, is_image_name: Callable[[str], bool]
) -> Iterator[ImageRef]:
    if is_archive(path):
        yield from archive_images(
            url, lambda: cast(BinaryIO, system.open(path, "rb")), is_image_name
        )
    else:
        yield ImageRef(url, lambda: _fetched(system, path))


def _fetched(system: Any, path: str) -> bytes:
    """Return a file's content.

    Raises:
        OSError: It cannot be had, or is too large for an image.
    """
    try:
        with system.open(path, "rb") as file:
            content = bytearray()
            while len(content) <= LARGEST and (piece := file.read(1 << 20)):
                content += piece  # a server may send less at a time than is asked for
    except OSError:
        raise
    except Exception as error:  # each file system raises kinds of its own
        raise OSError(_told(error)) from error
    if len(content) > LARGEST:
        raise OSError(f"it has more than {LARGEST:,} bytes, too many for an image")
    return bytes(content)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
