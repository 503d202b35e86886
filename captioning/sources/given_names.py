"""Names as users write them: ``file://`` URLs, brace patterns, quoted ``~``, and lists of names."""

import codecs
import os
import re
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from captioning.images.file_kinds import find_kind
from captioning.sources.image_names import is_image_name

_CHUNK = 1 << 16  # bytes


@runtime_checkable
class ReadableBytes(Protocol):
    """A buffered binary stream."""

    def read1(self, size: int = -1, /) -> bytes:
        """Return the bytes that are available, at most ``size``; empty at the end."""
        ...


def is_url(name: str) -> bool:
    """Return whether a name is a URL of a file system other than the local one."""
    return "://" in name and not _is_file_url(name)


def _is_file_url(name: str) -> bool:
    return name.strip()[:6].lower() == "file:/"


def read_as_paths(name: str) -> Iterator[str]:
    """Yield what a name may mean, the literal path first.

    A name may be a ``file://`` URL, have blanks or quotes around it, start with ``~`` or a
    variable, or have the separators of Windows.
    """
    yield name
    if _is_file_url(name):
        from urllib.request import url2pathname  # slow to import

        name = url2pathname(re.sub("file:(//[^/]*)?", "", name.strip(), count=1, flags=re.I))
        yield name
    yield (name := name.strip().strip("\"'"))
    yield (name := os.path.expandvars(os.path.expanduser(name)))  # noqa: PTH111
    yield name.replace("\\", "/")


def resolve_name(name: str) -> str:
    """Return the existing path that a name means.

    If there is none, return the path of a ``file://`` URL, or another name unchanged. Other URLs
    lose the blanks and quotes around them.
    """
    if is_url(name):
        return name.strip().strip("\"'")
    if os.path.lexists(name):
        return name
    paths = list(read_as_paths(name))
    found = next((path for path in paths if os.path.lexists(path)), None)
    if found is None and _is_file_url(name):
        return paths[1]
    return name if found is None else found


def absolute_name(name: str) -> str:
    """Return an absolute path for a path, and a URL unchanged."""
    return name if is_url(name) else os.path.abspath(name)  # noqa: PTH100  (names of any bytes)


def explain_missing(name: str) -> str:
    """Return why a name is not a path and what to do; empty if it may be one."""
    if not name.strip():
        return "the path is empty. Check the variables in your command."
    if re.fullmatch(r"\s*[{\[].*[}\],]\s*", name) and '"' in name:
        return (
            "it is a line of JSON, not a path. Give one path per line, for example: "
            "jq -r .file_name FILE | captioning caption -"
        )
    first_cell, *others = re.split("[,;\t]", name)
    if others and is_image_name(os.path.basename(first_cell.strip("\"'"))):  # noqa: PTH119
        return "no such file. It looks like a line of a table: give one path per line."
    return ""


def is_file_content(head: bytes) -> bool:
    """Return whether a stream is the content of a file, and not a list of names.

    Args:
        head: The first bytes of the stream.
    """
    if b"\0\0\0" in head:  # no list has empty names
        return True
    is_list = re.search(rb"[\x01-\x08\x0e-\x1f]", head) is None and _is_utf8(head)
    is_markup = head.lstrip(b"\xef\xbb\xbf \r\n").startswith((b"<", b"%PDF", b"version https://"))
    return find_kind(head) is not None and (not is_list or is_markup)


def _is_utf8(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # it may end inside a character
    except UnicodeDecodeError:
        return False
    return True


def read_name_list(stream: ReadableBytes, head: bytes = b"") -> Iterator[str]:
    """Yield the names of a list while it is being written.

    Names end with a NUL if the first chunk contains one (``find -print0``), else with a newline.

    Args:
        stream: The list. Its bytes may be other than UTF-8. UTF-16 with a byte order mark, as
            written by PowerShell, is converted.
        head: Bytes that were read already.
    """
    chunk = head or stream.read1(_CHUNK)
    is_utf16 = chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and b"\0" in chunk
    decoder = codecs.getincrementaldecoder("utf-16")("surrogatepass") if is_utf16 else None
    chunk = chunk.removeprefix(codecs.BOM_UTF8)
    end = b"\0" if b"\0" in chunk and not is_utf16 else b"\n"
    rest = b""
    while chunk:
        text = decoder.decode(chunk).encode("utf-8", "surrogatepass") if decoder else chunk
        *complete, rest = (rest + text).split(end)
        yield from (_decode_name(name, end) for name in complete if name.strip())
        chunk = stream.read1(_CHUNK)
    if rest.strip():
        yield _decode_name(rest, end)


def _decode_name(name: bytes, end: bytes) -> str:
    return os.fsdecode(name.removesuffix(b"\r") if end == b"\n" else name)
