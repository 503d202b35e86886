"""From what the user names to a stream of images: never all of them in memory.

A name is that of a file, a folder, a pattern such as ``photos/*.jpg``, a tar shard, or a URL of any
file system that fsspec knows (of a file, a folder, a shard, or with a pattern). Within a folder the
order is that in which people count (``photo2`` before ``photo10``).
"""

import codecs
import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from captioning.images.worker_pool import ImageRef
from captioning.sources.archives import archive_images, is_archive

_ENDINGS = (
    "jpg jpeg jpe jfif png apng gif bmp dib tif tiff webp avif avifs heic heif jp2 j2k ppm pgm pbm "
    "pnm mpo ico tga"
)
EXTENSIONS = frozenset(f".{ending}" for ending in _ENDINGS.split())
"""Endings by which folders and shards give their images; a file that is named is always tried."""


@runtime_checkable
class ReadableBytes(Protocol):
    """A binary stream, buffered."""

    def read1(self, size: int = -1, /) -> bytes:
        """Return the next bytes, as many as are there; none at the end."""
        ...


@dataclass(frozen=True)
class SourceConfig:
    """How names become images."""

    recursive: bool = False
    """Go into the folders of folders."""
    patterns: bool = True
    """Whether a name that does not exist may be a pattern."""
    follow_links: bool = False
    """Take links that lead out of a folder, and go through links to folders."""
    time_limit: float = 60.0
    """Seconds after which a server's next image is no longer waited for."""
    apart: frozenset[str] = frozenset()
    """Real paths of folders that are not entered: what a run writes is not its input."""


@dataclass
class Passed:
    """What was passed over so far."""

    files: int = 0
    """What is hidden in folders, or no image by its name."""
    folders: int = 0
    """Folders in folders, where these are not gone into."""


def is_image_name(name: str) -> bool:
    """Return whether a file in a folder is taken for an image, by its name."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS  # noqa: PTH122


def find_images(
    names: Iterable[str], options: SourceConfig | None = None, passed: Passed | None = None
) -> Iterator[ImageRef]:
    """Yield the images that ``names`` lead to, in their order; one named twice comes twice.

    What does not exist is among them, and so is what only looks like an image (a folder named
    ``x.jpg``, a folder that may not be opened): each gives a result that says so.

    Args:
        names: Files, folders, patterns, shards, URLs.
        options: How they are taken.
        passed: Counts what is passed over.
    """
    options, passed = options or SourceConfig(), passed or Passed()
    for name in names:
        if "://" in name:
            from captioning.sources.urls import url_images

            yield from url_images(
                name,
                recursive=options.recursive,
                is_image_name=is_image_name,
                passed=passed,
                time_limit=options.time_limit,
            )
        elif os.path.isdir(name):  # noqa: PTH112  (str keeps bytes that are no UTF-8)
            yield from _folder(name, options, passed)
        elif options.patterns and glob.escape(name) != name and not os.path.lexists(name):
            found = _matches(name)
            for match in found:
                yield from _folder(match, options, passed) if _leads_on(match) else _file(match)
            if not found:
                yield unmatched(name)
        else:
            yield from _file(name)


def names_of(stream: ReadableBytes) -> Iterator[str]:
    """Yield the names of a list as they come, each ended by a line break, or by a NUL.

    Which of them it is, its first piece tells: a NUL in it ends names.

    Args:
        stream: The list; its bytes need be no UTF-8.
    """
    chunk = stream.read1(1 << 16).removeprefix(codecs.BOM_UTF8)
    end = b"\0" if b"\0" in chunk else b"\n"
    rest = b""
    while chunk:
        *whole, rest = (rest + chunk).split(end)
        yield from (_decoded(name, end) for name in whole if name.strip(b"\r"))
        chunk = stream.read1(1 << 16)
    if rest.strip(b"\r"):
        yield _decoded(rest, end)


def _decoded(name: bytes, end: bytes) -> str:
    return os.fsdecode(name.removesuffix(b"\r") if end == b"\n" else name)


def unmatched(pattern: str) -> ImageRef:
    """Return what a pattern gives that no file matches."""
    return ImageRef(pattern, error=f"No file matches {pattern}. Check the pattern.")


def _file(name: str) -> Iterator[ImageRef]:
    if is_archive(name):
        yield from archive_images(name, lambda: _opened(name), is_image_name)
    else:
        yield ImageRef(name)


def _opened(name: str) -> BinaryIO:
    return Path(name).open("rb")


def _matches(pattern: str) -> list[str]:
    """Return the files that match, or where there are none, the folders."""
    found = glob.glob(pattern, recursive=True)  # noqa: PTH207
    return sorted([path for path in found if not _leads_on(path)] or found, key=natural)


def _leads_on(path: str) -> bool:
    """Whether this is a folder, and not called like an image, which would be a mistake."""
    return os.path.isdir(path) and not is_image_name(_last(path))  # noqa: PTH112


def _last(path: str) -> str:
    return os.path.basename(path)  # noqa: PTH119


def _folder(top: str, options: SourceConfig, passed: Passed) -> Iterator[ImageRef]:
    home = os.path.realpath(top)
    waiting: list[tuple[str, tuple[str, ...]]] = [(top, (home,))]
    while waiting:
        folder, above = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: natural(entry.name))
        except OSError as error:
            yield ImageRef(folder, error=f"{folder} cannot be opened: {error.strerror or error}.")
            continue
        deeper: list[tuple[str, tuple[str, ...]]] = []
        for entry in found:
            hidden = entry.name.startswith(".")
            is_folder = _is_folder(entry)
            if is_folder and not is_image_name(entry.name):
                passed.files += hidden
                entered = [] if hidden else _entered(entry, above, options)
                if options.recursive:
                    deeper += entered
                else:
                    passed.folders += len(entered)
                continue
            if is_image_name(entry.name):
                yield _in_folder(entry, home, options)
            else:
                passed.files += 1
            if is_folder and options.recursive and not hidden:
                deeper += _entered(entry, above, options)
        waiting += reversed(deeper)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _entered(
    entry: "os.DirEntry[str]", above: tuple[str, ...], options: SourceConfig
) -> list[tuple[str, tuple[str, ...]]]:
    """Return a folder to go into, with those that it lies in; links may lead back into them."""
    real = os.path.realpath(entry.path) if options.apart or entry.is_symlink() else ""
    if real in options.apart:
        return []
    if not entry.is_symlink():
        return [(entry.path, above)]
    round_trip = any(real == each or each.startswith(real + os.sep) for each in above)
    return [(entry.path, (*above, real))] if options.follow_links and not round_trip else []


def _in_folder(entry: "os.DirEntry[str]", home: str, options: SourceConfig) -> ImageRef:
    if options.follow_links or not entry.is_symlink():
        return ImageRef(entry.path)
    target = os.path.realpath(entry.path)
    if target.startswith(home.rstrip(os.sep) + os.sep) or not os.path.lexists(target):
        return ImageRef(entry.path)
    return ImageRef(
        entry.path,
        error=f"{entry.path} is a link out of its folder, to {target}. Add --follow-links to "
        "caption what such links lead to.",
    )


def natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Return a key under which ``photo2`` comes before ``photo10``, and no two names are equal."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts], name
