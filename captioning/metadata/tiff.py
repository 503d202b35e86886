"""Tags of a TIFF block, which is what EXIF is: read, and written without moving anything.

New values go to the end of the block. Where a tag is new, its directory is written anew at the end,
too. All else stays at its offset, so that thumbnails and the offsets inside maker notes, which
nobody can know, stay right. TIFF 6.0, section 2; EXIF 2.32, section 4.6.
"""

import re
from dataclasses import dataclass
from typing import Literal

from captioning.errors import OutputError
from captioning.metadata.blocks import Blocks

DESCRIPTION = 0x010E
ASCII, UNDEFINED = 2, 7

_XMP, _IPTC = 700, 33723
_BYTE = 1
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 129: 1}
_EMPTY = b"II*\0\x08\0\0\0" + b"\0\0" + b"\0\0\0\0"  # a header and a directory of no tags
_MAX_BYTES = 2**32 - 1
_CAMERA_TEXT = re.compile(  # what cameras write where nobody has described anything
    r"([\w-]+ ){0,2}digital (still )?camera|dcim\\.*|dcf 1\.0|default|exif_jpeg_image|image|"
    r"samsung|sony dsc|untitled",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class _Directory:
    """The first directory of a block."""

    order: Literal["little", "big"]
    start: int
    entries: tuple[bytes, ...]
    """Twelve bytes each, as they stand there: tag, type, count, value or its offset."""

    following: bytes
    """Four bytes: where the next directory stands (the thumbnail's)."""

    def tag(self, entry: bytes) -> int:
        return int.from_bytes(entry[:2], self.order)

    def pack(self) -> bytes:
        count = len(self.entries).to_bytes(2, self.order)
        return count + b"".join(self.entries) + self.following


def read_description(block: bytes) -> str | None:
    """Return ImageDescription, or None where it is missing, blank, or a camera's stock text.

    Raises:
        OutputError: The block is broken.
    """
    place = find(block, DESCRIPTION)
    if place is None:
        return None
    value = block[place].split(b"\0")[0]
    try:
        text = value.decode().strip()
    except UnicodeDecodeError:
        text = value.decode("latin-1").strip()
    return None if _CAMERA_TEXT.fullmatch(text) else text or None


def with_description(block: bytes | None, caption: str) -> bytes:
    """Return a block whose ImageDescription is a caption, as UTF-8; None makes a new block.

    The standard says ASCII; UTF-8 is what exiftool and others write and read.

    Raises:
        OutputError: The block is broken.
    """
    value = caption.encode() + b"\0"
    return _with_tag(_EMPTY if block is None else block, DESCRIPTION, ASCII, value)


def read_blocks(data: bytes) -> Blocks:
    """Return the metadata of a TIFF file; all of it is its EXIF block.

    Raises:
        OutputError: The file is damaged.
    """
    xmp, iptc = (find(data, tag) for tag in (_XMP, _IPTC))
    return Blocks(xmp=xmp and data[xmp], iptc=iptc and data[iptc], exif=data)


def write_blocks(data: bytes, blocks: Blocks) -> bytes:
    """Return a TIFF file with other metadata; its pixels stay where they are.

    Raises:
        OutputError: The file is damaged, or would be longer than 4 GiB.
    """
    new = data if blocks.exif is None else blocks.exif
    if blocks.iptc is not None:
        new = _with_tag(new, _IPTC, UNDEFINED, blocks.iptc)
    if blocks.xmp is not None:
        new = _with_tag(new, _XMP, _BYTE, blocks.xmp)
    return new


def find(block: bytes, tag: int) -> slice | None:
    """Return where in a block the value of a tag of the first directory stands.

    Raises:
        OutputError: The block is broken.
    """
    directory = _directory(block)
    for number, entry in enumerate(directory.entries):
        if directory.tag(entry) == tag:
            return _place(block, directory, number)
    return None


def _directory(block: bytes) -> _Directory:
    orders: dict[bytes, Literal["little", "big"]] = {b"II*\0": "little", b"MM\0*": "big"}
    order = orders.get(block[:4])
    if order is None:
        raise OutputError(f"Its EXIF or TIFF block is broken: it begins with {block[:4]!r}.")
    start = int.from_bytes(block[4:8], order)
    count = int.from_bytes(block[start : start + 2], order)
    end = start + 2 + 12 * count
    if start < 8 or end + 4 > len(block):
        raise OutputError(
            f"Its EXIF or TIFF block is broken: {count} tags at byte {start} of {len(block)}."
        )
    entries = tuple(block[place : place + 12] for place in range(start + 2, end, 12))
    return _Directory(order, start, entries, block[end : end + 4])


def _place(block: bytes, directory: _Directory, number: int) -> slice:
    entry = directory.entries[number]
    kind = int.from_bytes(entry[2:4], directory.order)
    size = _SIZES.get(kind, 0) * int.from_bytes(entry[4:8], directory.order)
    start = directory.start + 2 + 12 * number + 8
    if size > 4:
        start = int.from_bytes(entry[8:], directory.order)
    if kind not in _SIZES or start + size > len(block):
        raise OutputError(
            f"Its EXIF or TIFF block is broken: tag {directory.tag(entry)} of type {kind} has "
            f"{size} bytes at byte {start} of {len(block)}."
        )
    return slice(start, start + size)


def _with_tag(block: bytes, tag: int, kind: int, value: bytes) -> bytes:
    """Return a block with a tag set; nothing but that tag's value and the directory changes."""
    directory = _directory(block)
    old = find(block, tag)
    if old is None:
        block += b"\0" * (len(block) % 2)
        start = len(block)
        block = block[:4] + start.to_bytes(4, directory.order) + block[8:]
        size = 2 + 12 * (len(directory.entries) + 1) + 4
    else:
        start, size = directory.start, 0
        if old.stop == len(block) and old.start >= start + len(directory.pack()):
            block = block[: old.start]  # written here before: a second caption makes no growth
    block += b"\0" * (len(block) % 2)
    new = _entry(directory, tag, kind, value, at=len(block) + size)
    changed = _Directory(directory.order, start, _merged(directory, tag, new), directory.following)
    packed = changed.pack()
    block = block[:start] + packed + block[start + len(packed) :]
    block += value if len(value) > 4 else b""
    if len(block) > _MAX_BYTES:
        raise OutputError(f"It would have {len(block)} bytes; TIFF ends at {_MAX_BYTES}.")
    return block


def _entry(directory: _Directory, tag: int, kind: int, value: bytes, *, at: int) -> bytes:
    numbers = ((tag, 2), (kind, 2), (len(value), 4))
    head = b"".join(number.to_bytes(size, directory.order) for number, size in numbers)
    return head + (at.to_bytes(4, directory.order) if len(value) > 4 else value.ljust(4, b"\0"))


def _merged(directory: _Directory, tag: int, new: bytes) -> tuple[bytes, ...]:
    """Return the entries with one replaced, or put in before the first of a higher tag."""
    entries = list(directory.entries)
    tags = [directory.tag(entry) for entry in entries]
    if tag in tags:
        return tuple(new if tag == old else entry for old, entry in zip(tags, entries, strict=True))
    place = next((number for number, old in enumerate(tags) if old > tag), len(tags))
    return (*entries[:place], new, *entries[place:])
