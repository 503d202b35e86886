"""Images behind URLs of any fsspec file system, such as ``s3://``, ``http://`` and ``memory://``."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import chain
from queue import Empty, Full, Queue
from typing import Any

import fsspec

from captioning.images.worker_pool import ImageRef
from captioning.sources.archives import MAX_IMAGE_BYTES, find_archive_images, is_archive
from captioning.sources.image_names import natural_key, report_unmatched
from captioning.sources.name_filter import NameFilter

_WILDCARDS = frozenset("*?[")


def find_url_images(
    url: str, name_filter: NameFilter, *, recursive: bool, time_limit: float
) -> Iterator[ImageRef]:
    """Yield the images of a remote file, folder, archive or glob pattern.

    File contents are fetched later, when the loader reads an image. If the server cannot be
    reached or does not answer in time, the last item carries the error.

    Args:
        url: URL of the form ``protocol://path``.
        name_filter: Decides what is captioned, and counts the rest.
        recursive: Enter subfolders.
        time_limit: Seconds to wait for the next image of the listing.
    """
    end, queue, closed = object(), Queue[object](1), threading.Event()

    def fill_queue() -> None:
        for item in chain(_list_images(url, recursive, name_filter), [end]):
            while not closed.is_set():
                with suppress(Full):
                    queue.put(item, timeout=0.2)
                    break

    # A daemon: a server that never answers would keep the process alive.
    threading.Thread(target=fill_queue, daemon=True).start()
    try:
        while (item := queue.get(timeout=time_limit)) is not end:
            assert isinstance(item, ImageRef)
            yield item
    except Empty:
        problem = f"cannot list '{url}': no answer within {time_limit:g} seconds."
        yield ImageRef(url, error=f"{problem} Try again, or raise the time limit.")
    finally:
        closed.set()


def _list_images(url: str, recursive: bool, name_filter: NameFilter) -> Iterator[ImageRef]:
    # Every file system raises its own exception classes, so that all are caught.
    try:
        system, path = fsspec.core.url_to_fs(url)
    except Exception as error:
        advice = "Check the URL."
        if isinstance(error, ImportError):
            advice = 'Install that package; for http: pip install "captioning[http]".'
        yield ImageRef(url, error=f"cannot open '{url}': {_describe(error)}. {advice}")
        return
    try:
        yield from _find_path_images(system, path, url, name_filter, recursive=recursive)
    except Exception as error:
        yield ImageRef(url, error=f"cannot list '{url}': {_describe(error)}. Check the URL.")


def _find_path_images(
    system: Any, path: str, url: str, name_filter: NameFilter, *, recursive: bool
) -> Iterator[ImageRef]:
    protocol = url.partition("://")[0]
    if protocol not in ("http", "https"):  # web pages are not folders, and ? starts a query
        if _WILDCARDS & set(path):
            matches = sorted(system.glob(path))
            named = set(path.split("/"))
            for match in matches:
                if name_filter.keeps_folders_of(match, "", named=named) and (
                    name_filter.keeps_named(match_url := system.unstrip_protocol(match))
                ):
                    yield from _file_images(system, match, match_url, name_filter)
            if not matches:
                yield report_unmatched(url)
            return
        if system.isdir(path):
            yield from _folder_images(system, path, name_filter, recursive)
            return
    yield from _file_images(system, path, url, name_filter)


def _folder_images(
    system: Any, path: str, name_filter: NameFilter, recursive: bool
) -> Iterator[ImageRef]:
    for folder, folders, files in system.walk(path, maxdepth=None if recursive else 1):
        parent = str(folder).rstrip("/")
        kept = [
            name
            for name in sorted(folders, key=natural_key)
            if name_filter.keeps_folder(f"{parent}/{name}", path)
        ]
        if isinstance(folders, list):
            folders[:] = kept  # walk() enters the folders that are left in this list
        if not recursive:
            name_filter.skipped.subfolders += len(kept)
        for name in sorted(files, key=natural_key):
            if name_filter.keeps_file(full_path := f"{parent}/{name}", path):
                url = system.unstrip_protocol(full_path)
                yield ImageRef(url, partial(_fetch, system, full_path))


def _file_images(system: Any, path: str, url: str, name_filter: NameFilter) -> Iterator[ImageRef]:
    if is_archive(path):
        open_archive = partial(system.open, path, "rb")
        yield from find_archive_images(url, open_archive, name_filter)
    else:
        yield ImageRef(url, partial(_fetch, system, path))


def _fetch(system: Any, path: str) -> bytes:
    """Return the content of a remote file.

    Raises:
        OSError: The file cannot be fetched, or is larger than ``MAX_IMAGE_BYTES``.
    """
    try:
        with system.open(path, "rb") as file:
            content = bytearray()
            # A server may send less per read than requested.
            while len(content) <= MAX_IMAGE_BYTES and (piece := file.read(1 << 20)):
                content += piece
    except OSError:
        raise
    except Exception as error:  # every file system raises its own exception classes
        raise OSError(_describe(error)) from error
    if len(content) > MAX_IMAGE_BYTES:
        raise OSError(f"it has more than {MAX_IMAGE_BYTES:,} bytes, the limit for an image")
    return bytes(content)


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
