"""Find images: turn the names given by a user into a stream of image references.

A name is a file, a folder, a glob pattern such as ``photos/*.jpg``, a tar archive, or a URL of any
fsspec file system. The images of a folder come in natural order (``photo2`` before ``photo10``).
"""

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from captioning.file_patterns import expand_braces
from captioning.images.image_ref import ImageRef
from captioning.sources.archives import MAX_IMAGE_BYTES, find_archive_images
from captioning.sources.given_names import (
    ReadableBytes,
    explain_missing,
    is_file_content,
    is_url,
    read_as_paths,
    read_name_list,
    resolve_name,
)
from captioning.sources.image_names import is_archive, is_image_name, natural_key, report_unmatched
from captioning.sources.name_filter import NameFilter
from captioning.sources.skipped import SkippedCounts

STDIN_PREFIX = "stdin-"
"""Start of the name of an image that is the content of standard input."""
_HEAD_BYTES = 1 << 16  # of a stream, to see what it is
_FolderToVisit = tuple[str, tuple[str, ...]]
"""A path, and the real paths of the folders that contain it."""


@dataclass(frozen=True)
class SourceConfig:
    """How names are turned into images."""

    recursive: bool = False
    """Enter subfolders."""
    patterns: bool = True
    """If a name does not exist as a file or folder, treat it as a glob pattern."""
    follow_links: bool = False
    """Read links that point out of their folder, and enter linked folders."""
    time_limit: float = 60.0
    """Seconds to wait for the next entry of a remote listing."""
    excluded_folders: frozenset[str] = frozenset()
    """Real paths of folders that are not entered, such as the output folder of the run."""
    exclude: str | Sequence[str] = ()
    """Patterns of files and folders to leave out, with the syntax of ``.gitignore``."""
    ordered: bool = True
    """Yield the images of a local folder in natural order, which needs all its names in memory.
    False yields them in the order of the file system."""
    open_archives: bool = True
    """Yield the images in archives; False yields each archive itself as one item."""


def find_images(
    names: Iterable[str],
    config: SourceConfig | None = None,
    skipped: SkippedCounts | None = None,
) -> Iterator[ImageRef]:
    """Yield the images for ``names``, in order; a name given twice is yielded twice.

    The stream is lazy, so that a folder or a list may be larger than memory. A missing file and an
    unreadable folder are yielded as well; they end as error rows.

    Args:
        names: Files, folders, glob patterns, archives and URLs.
        config: How to treat them; the defaults if None.
        skipped: Counts that are updated.
    """
    config, skipped = config or SourceConfig(), skipped or SkippedCounts()
    name_filter = NameFilter(config.exclude, skipped)
    for name in chain.from_iterable(_expand_name(given, config) for given in names):
        if not config.patterns and is_image_name(os.path.basename(name)) and os.path.isdir(name):  # noqa: PTH119, PTH112
            # `find -name '*.jpg'` lists folders with such names, and the images in them.
            skipped.subfolders += 1
            continue
        excluded = skipped.excluded.total()
        first = next(images := _find_named(name, config, name_filter), None)
        if first is not None:
            yield first
            yield from images
        elif skipped.excluded.total() == excluded:
            skipped.count_without_images(name)


def _expand_name(given: str, config: SourceConfig) -> Iterator[str]:
    name = resolve_name(given)
    if config.patterns and not os.path.lexists(name):
        yield from map(resolve_name, expand_braces(name))
    else:
        yield name


def _find_named(name: str, config: SourceConfig, name_filter: NameFilter) -> Iterator[ImageRef]:
    is_pattern = config.patterns and glob.escape(name) != name and not os.path.lexists(name)
    if is_url(name):
        from captioning.sources.urls import find_url_images  # fsspec is slow to import

        if name_filter.keeps_named(name):
            yield from find_url_images(
                name,
                name_filter,
                recursive=config.recursive,
                time_limit=config.time_limit,
                open_archives=config.open_archives,
            )
    elif is_pattern:
        yield from _find_matches(name, config, name_filter)
    elif not name_filter.keeps_named(name):
        return
    elif os.path.isdir(name):  # noqa: PTH112  (str keeps names that are not UTF-8)
        yield from _find_folder_images(name, config, name_filter)
    else:
        yield from _find_file_images(name, config, name_filter)


def find_stream_images(
    stream: ReadableBytes, config: SourceConfig, skipped: SkippedCounts
) -> Iterator[ImageRef]:
    """Yield the images named in a list, or the image whose content the stream is.

    Args:
        stream: The list, or the content of one file. Names in a list are not patterns: they may
            contain brackets or stars.
        config: How to treat the names.
        skipped: Counts that are updated.
    """
    head = stream.read1(_HEAD_BYTES)
    if not is_file_content(head):
        names = read_name_list(stream, head)
        yield from find_images(names, replace(config, patterns=False), skipped)
        return
    content = bytearray(head)
    while len(content) <= MAX_IMAGE_BYTES and (chunk := stream.read1(1 << 20)):
        content += chunk
    # The name tells different images apart when a run is resumed.
    name = f"{STDIN_PREFIX}{hashlib.sha256(content).hexdigest()[:12]}"
    problem = f"it has more than {MAX_IMAGE_BYTES:,} bytes, the limit for an image. Shrink it."
    is_large = len(content) > MAX_IMAGE_BYTES
    yield ImageRef(name, bytes(content), f"cannot read '{name}': {problem}" if is_large else "")


def _open_file(name: str) -> BinaryIO:
    return Path(name).open("rb")


def _find_file_images(
    name: str, config: SourceConfig, name_filter: NameFilter
) -> Iterator[ImageRef]:
    if is_archive(name) and config.open_archives:
        yield from find_archive_images(name, partial(_open_file, name), name_filter)
    else:
        problem = "" if os.path.lexists(name) else explain_missing(name)
        yield ImageRef(name, error=f"cannot read '{name}': {problem}" if problem else "")


def _find_matches(
    pattern: str, config: SourceConfig, name_filter: NameFilter
) -> Iterator[ImageRef]:
    """Yield the files that match a pattern; if only folders match, the images inside them."""
    matches = next(filter(None, map(_glob, read_as_paths(pattern))), [])
    if not matches:
        yield report_unmatched(pattern)
    folders = {path for path in matches if os.path.isdir(path)}  # noqa: PTH112
    kept = [
        path
        for path in sorted(matches, key=natural_key)
        if name_filter.keeps_match(path, pattern, is_folder=path in folders)
    ]
    has_files = len(folders) < len({*matches})
    for path in kept:
        if path not in folders:
            yield from _find_file_images(path, config, name_filter)
        elif has_files:
            name_filter.skipped.subfolders += 1
        else:
            yield from _find_folder_images(path, config, name_filter)


def _glob(pattern: str) -> list[str]:
    """Return what matches a pattern; brackets in the names of existing folders are literal."""
    folder, rest = pattern, ""
    while folder and not os.path.lexists(folder):
        folder, slash, name = folder.rpartition("/")
        rest = f"{slash}{name}{rest}"
    return (
        glob.glob(glob.escape(folder) + rest, recursive=True)  # noqa: PTH207
        or glob.glob(pattern.replace("[", "[[]"), recursive=True)  # noqa: PTH207
    )


def _find_folder_images(
    top: str, config: SourceConfig, name_filter: NameFilter
) -> Iterator[ImageRef]:
    root = os.path.realpath(top)
    stack: list[_FolderToVisit] = [(top, (root,))]
    while stack:
        folder, parents = stack.pop()
        subfolders: list[_FolderToVisit] = []
        try:
            for entry in _scan_folder(folder, config):
                if not _is_folder(entry):
                    if name_filter.keeps_file(entry.path, top):
                        yield _folder_image(entry, root, config)
                elif name_filter.keeps_folder(entry.path, top):
                    subfolders += _folders_to_visit(entry, parents, config)
        except OSError as error:
            problem = f"cannot open folder '{folder}': {error.strerror or error}."
            yield ImageRef(folder, error=f"{problem} Check its permissions.")
        if config.recursive:
            stack += reversed(subfolders)
        else:
            name_filter.skipped.subfolders += len(subfolders)


def _scan_folder(folder: str, config: SourceConfig) -> Iterator["os.DirEntry[str]"]:
    with os.scandir(folder) as scan:
        yield from sorted(scan, key=lambda each: natural_key(each.name)) if config.ordered else scan


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _folders_to_visit(
    entry: "os.DirEntry[str]", parents: tuple[str, ...], config: SourceConfig
) -> list[_FolderToVisit]:
    """Return the folder, or an empty list if it is excluded or links back to a parent."""
    is_link = entry.is_symlink()
    real = os.path.realpath(entry.path) if config.excluded_folders or is_link else ""
    if real in config.excluded_folders:
        return []
    if not is_link:
        return [(entry.path, parents)]
    is_cycle = any(real == parent or parent.startswith(real + os.sep) for parent in parents)
    return [(entry.path, (*parents, real))] if config.follow_links and not is_cycle else []


def _folder_image(entry: "os.DirEntry[str]", root: str, config: SourceConfig) -> ImageRef:
    if config.follow_links or not entry.is_symlink():
        return ImageRef(entry.path)
    target = os.path.realpath(entry.path)
    if target.startswith(root.rstrip(os.sep) + os.sep) or not os.path.lexists(target):
        return ImageRef(entry.path)
    problem = f"cannot read '{entry.path}': it is a link out of its folder, to '{target}'."
    return ImageRef(entry.path, error=f"{problem} Add --follow-links to read it.")
