"""Pictures behind URLs, of any file system that fsspec knows: ``s3://``, ``http://``, ``memory://``."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import fsspec

from captioning.captioner.shards import LARGEST, is_shard, shard_pictures
from captioning.data.pool import Picture

if TYPE_CHECKING:
    from captioning.captioner.inputs import Passed

_WILD = frozenset("*?[")


def url_pictures(
    url: str, recursive: bool, is_picture: Callable[[str], bool], passed: "Passed"
) -> Iterator[Picture]:
    """Yield the pictures of a file, a folder or a pattern somewhere else.

    Each is fetched when its turn comes. What cannot be reached ends in a picture that says so.

    Args:
        url: Of the form ``protocol://path``.
        recursive: Go into the folders of folders.
        is_picture: Says of a file's name, without its folders, whether it is one.
        passed: Counts the files that are none.
    """
    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        yield Picture(url, error=f"{url} cannot be opened: {error}. Install what it names.")
        return
    try:
        yield from _found(
            system, path, url, recursive=recursive, is_picture=is_picture, passed=passed
        )
    except Exception as error:  # each file system raises kinds of its own
        yield Picture(url, error=f"{url} cannot be listed: {_told(error)}. Check that it is there.")


def _found(
    system: Any,
    path: str,
    url: str,
    *,
    recursive: bool,
    is_picture: Callable[[str], bool],
    passed: "Passed",
) -> Iterator[Picture]:
    protocol = url.partition("://")[0]
    if protocol not in ("http", "https"):  # a page is no folder, and ? there is no pattern
        if _WILD & set(path):
            for match in sorted(system.glob(path)):
                yield from _file(system, match, system.unstrip_protocol(match), is_picture)
            return
        if system.isdir(path):
            yield from _folder(system, path, recursive, is_picture, passed)
            return
    yield from _file(system, path, url, is_picture)


def _folder(
    system: Any, path: str, recursive: bool, is_picture: Callable[[str], bool], passed: "Passed"
) -> Iterator[Picture]:
    from captioning.captioner.inputs import natural

    for folder, folders, files in system.walk(path, maxdepth=None if recursive else 1):
        folders_in_order = sorted(folders, key=natural)
        if isinstance(folders, list):
            folders[:] = [each for each in folders_in_order if not each.startswith(".")]
        for name in sorted(files, key=natural):
            if is_picture(name):
                full = f"{str(folder).rstrip('/')}/{name}"
                yield from _file(system, full, system.unstrip_protocol(full), is_picture)
            else:
                passed.files += 1


def _file(system: Any, path: str, url: str, is_picture: Callable[[str], bool]) -> Iterator[Picture]:
    if is_shard(path):
        yield from shard_pictures(url, lambda: cast(BinaryIO, system.open(path, "rb")), is_picture)
    else:
        yield Picture(url, lambda: _fetched(system, path))


def _fetched(system: Any, path: str) -> bytes:
    """Return a file's content.

    Raises:
        OSError: It cannot be had, or is too large for a picture.
    """
    try:
        with system.open(path, "rb") as file:
            content = bytes(file.read(LARGEST + 1))
    except OSError:
        raise
    except Exception as error:  # each file system raises kinds of its own
        raise OSError(_told(error)) from error
    if len(content) > LARGEST:
        raise OSError(f"it has more than {LARGEST:,} bytes, too many for a picture")
    return content


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
