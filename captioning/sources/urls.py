"""Images behind URLs of any fsspec file system, such as ``s3://``, ``http://`` and ``memory://``."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from queue import Empty, Full, Queue
from typing import Any

import fsspec

from captioning.images.image_ref import ImageRef
from captioning.messages import suggest
from captioning.sources.archives import MAX_IMAGE_BYTES, find_archive_images
from captioning.sources.http_files import explain_http_error, explain_timeout, open_http
from captioning.sources.image_names import is_archive, natural_key, report_unmatched
from captioning.sources.name_filter import NameFilter

_WILDCARDS = frozenset("*?[")


def find_url_images(
    url: str,
    name_filter: NameFilter,
    *,
    recursive: bool,
    time_limit: float,
    open_archives: bool = True,
) -> Iterator[ImageRef]:
    """Yield the images of a remote file, folder, archive or glob pattern.

    File contents are fetched later, when the loader reads an image. If the server cannot be
    reached or does not answer in time, the last item carries the error.

    Args:
        url: URL of the form ``protocol://path``.
        name_filter: Decides what is captioned, and counts the rest.
        recursive: Enter subfolders.
        time_limit: Seconds to wait for the next image of the listing.
        open_archives: Yield the images in archives; False yields each archive itself.
    """
    end, queue, closed = object(), Queue[object](1), threading.Event()

    def list_images() -> Iterator[ImageRef]:
        try:
            remote, path = _open_system(url, time_limit, open_archives)
        except OSError as error:
            yield ImageRef(url, error=f"cannot open '{url}': {error}")
            return
        try:
            yield from _find_path_images(remote, path, url, name_filter, recursive=recursive)
        except Exception as error:
            yield ImageRef(url, error=f"cannot list '{url}': {remote.explain(error)}")

    def fill_queue() -> None:
        for item in chain(list_images(), [end]):
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
        yield ImageRef(url, error=f"cannot list '{url}': {explain_timeout(time_limit)}")
    finally:
        closed.set()


@dataclass(frozen=True)
class _RemoteSystem:
    """A file system of fsspec, which may raise any exception."""

    system: Any
    is_http: bool
    time_limit: float
    open_archives: bool = True
    """Whether archives stand for their images."""

    def open(self, path: str) -> Any:
        """Open a file to read it once from start to end."""
        if self.is_http:
            return open_http(self.system, path, self.time_limit)
        return self.system.open(path, "rb")

    def explain(self, error: Exception) -> str:
        """Return why a file cannot be read, and what to do, as sentences."""
        if self.is_http:
            return explain_http_error(error, self.time_limit)
        if isinstance(error, FileNotFoundError):
            return "no such file. Check the URL."
        if isinstance(error, PermissionError) or "credentials" in str(error).lower():
            return f"access denied ({_describe(error)}). Check your credentials for this service."
        return f"{_describe(error)}. Check the URL."


def _open_system(
    url: str, time_limit: float, open_archives: bool = True
) -> tuple[_RemoteSystem, str]:
    """Return the file system of a URL, and the path in it.

    Raises:
        OSError: There is no such file system. The message is the reason and advice.
    """
    protocol = url.partition("://")[0]
    is_http = protocol in ("http", "https")
    options = {"client_kwargs": {"trust_env": True}} if is_http else {}  # the user's proxies
    try:
        system, path = fsspec.core.url_to_fs(url, **options)
    except Exception as error:
        raise OSError(_explain_protocol(error, protocol)) from error
    return _RemoteSystem(system, is_http, time_limit, open_archives), path


def _explain_protocol(error: Exception, protocol: str) -> str:
    """Return why there is no file system for a protocol, and what to do."""
    if isinstance(error, ImportError):
        advice = ' pip install "fsspec[http]"' if protocol in ("http", "https") else ""
        return f"{str(error).rstrip('.')}.{advice}"
    if "::" not in protocol and protocol not in fsspec.available_protocols():
        hint = suggest(protocol, ("http", "https", "s3", "gs", "az", "file", "ftp", "sftp", "hf"))
        return f"unknown protocol {protocol!r}.{hint or ' Check the URL.'}"
    return f"{_describe(error)}. Check the URL."


def _find_path_images(
    remote: _RemoteSystem, path: str, url: str, name_filter: NameFilter, *, recursive: bool
) -> Iterator[ImageRef]:
    system = remote.system
    if not remote.is_http:  # web pages are not folders, and ? starts a query
        if _WILDCARDS & set(path) and not system.exists(path):
            matches = system.glob(path, detail=True)
            for match, details in sorted(matches.items()):
                is_folder = details["type"] == "directory"
                if not name_filter.keeps_match(match, path, is_folder=is_folder):
                    continue
                if is_folder:
                    name_filter.skipped.subfolders += 1
                else:
                    match_url = system.unstrip_protocol(match)
                    yield from _file_images(remote, match, match_url, name_filter)
            if not matches:
                yield report_unmatched(url)
            return
        if system.isdir(path):
            yield from _folder_images(remote, path, name_filter, recursive)
            return
    yield from _file_images(remote, path, url, name_filter)


def _folder_images(
    remote: _RemoteSystem, path: str, name_filter: NameFilter, recursive: bool
) -> Iterator[ImageRef]:
    system = remote.system
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
                yield ImageRef(url, partial(_fetch, remote, full_path))


def _file_images(
    remote: _RemoteSystem, path: str, url: str, name_filter: NameFilter
) -> Iterator[ImageRef]:
    if not (is_archive(path) and remote.open_archives):
        yield ImageRef(url, partial(_fetch, remote, path))
        return
    try:
        file = remote.open(path)
        yield from find_archive_images(url, lambda: file, name_filter)
    except Exception as error:
        yield ImageRef(url, error=f"cannot fetch '{url}': {remote.explain(error)}")


def fetch_url(url: str, time_limit: float = 60.0) -> bytes:
    """Return the content of a remote file.

    Args:
        url: URL of any file system of fsspec.
        time_limit: Seconds to wait for the next piece of an HTTP answer.

    Raises:
        OSError: It cannot be fetched. The message is the reason and advice.
    """
    return _fetch(*_open_system(url, time_limit))


def _fetch(remote: _RemoteSystem, path: str) -> bytes:
    """Return the content of a remote file.

    Raises:
        OSError: The file cannot be fetched, is empty, or is larger than ``MAX_IMAGE_BYTES``. The
            message is the reason and advice.
    """
    content = bytearray()
    try:
        with remote.open(path) as file:
            # A server may send less per read than requested.
            while len(content) <= MAX_IMAGE_BYTES and (piece := file.read(1 << 20)):
                content += piece
    except Exception as error:
        raise OSError(remote.explain(error)) from error
    if not content:
        raise OSError("the file is empty (0 bytes). Check the URL.")
    if remote.is_http and content[:99].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise OSError("it is a web page (HTML), not an image. Give the URL of the image itself.")
    if len(content) > MAX_IMAGE_BYTES:
        limit = f"{MAX_IMAGE_BYTES:,}"
        raise OSError(f"it has more than {limit} bytes, the limit for an image. Shrink it.")
    return bytes(content)


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
