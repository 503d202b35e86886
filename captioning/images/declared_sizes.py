"""Sizes that the first bytes of an image file state, known before it is decoded."""

import io
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any


def jpeg_header_length(content: bytes) -> int:
    """Return the number of bytes before the first scan of a JPEG (ISO 10918-1, annex B)."""
    position = 2
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        length = int.from_bytes(content[position + 2 : position + 4], "big")
        position += 1 if marker == 0xFF else 2 + length
        if marker == 0xDA:
            break
    return position


_PNG, _ICO, _ICNS = b"\x89PNG\r\n\x1a\n", b"\0\0\1\0", b"icns"
_CODESTREAM, _JP2_SIZE = b"\xff\x4f\xff\x51", b"ihdr"
_BITMAP = b"\x28\0\0\0"  # length of the bitmap header in icons


def read_declared_sizes(file: Any) -> Iterator[tuple[int, int]]:
    """Yield image sizes (width, height) that Pillow checks only after allocating the memory.

    Pillow allocates the canvas of a WebP and unpacks an ICO on opening. An ICNS may contain images
    of other sizes than its directory states.

    Args:
        file: An open binary file. If it cannot be rewound, nothing is yielded.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        file.seek(0)
    except (AttributeError, io.UnsupportedOperation):
        return
    head = file.read(30)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        yield from _webp_size(head)
    elif head.startswith((_ICO, _ICNS)):
        content = head + file.read()
        parts = _ico_parts(content) if head.startswith(_ICO) else _icns_parts(content)
        with suppress(struct.error):  # an incomplete file; Pillow reports it
            for part in parts:
                yield from _part_size(part)
    file.seek(0)


def _webp_size(head: bytes) -> Iterator[tuple[int, int]]:
    """WebP container specification; RFC 6386, section 9.1; lossless bitstream, section 3."""
    if len(head) < 30:
        return
    if head[12:16] == b"VP8X":
        yield (
            int.from_bytes(head[24:27], "little") + 1,
            int.from_bytes(head[27:30], "little") + 1,
        )
    elif head[12:16] == b"VP8 ":
        width, height = struct.unpack_from("<HH", head, 26)
        yield width & 0x3FFF, height & 0x3FFF
    elif head[12:16] == b"VP8L":
        (bits,) = struct.unpack_from("<I", head, 21)
        yield (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


def _ico_parts(content: bytes) -> Iterator[bytes]:
    (count,) = struct.unpack_from("<H", content, 4)
    for number in range(count):
        (start,) = struct.unpack_from("<I", content, 6 + 16 * number + 12)
        yield content[start : start + 26]


def _icns_parts(content: bytes) -> Iterator[bytes]:
    start = 8
    while start + 8 <= len(content):
        (length,) = struct.unpack_from(">I", content, start + 4)
        yield content[start + 8 : start + min(max(length, 8), 4096)]
        start += max(length, 8)


def _part_size(part: bytes) -> Iterator[tuple[int, int]]:
    if part.startswith(_PNG):
        yield struct.unpack_from(">II", part, 16)
    elif (position := part.find(_CODESTREAM)) >= 0:  # ISO 15444-1, annex A.5.1
        right, bottom, left, top = struct.unpack_from(">IIII", part, position + 8)
        yield right - left, bottom - top
    elif (position := part.find(_JP2_SIZE)) >= 0:  # ISO 15444-1, annex I.5.3.1
        height, width = struct.unpack_from(">II", part, position + 4)
        yield width, height
    elif part.startswith(_BITMAP):  # its height includes the mask
        width, height = struct.unpack_from("<ii", part, 4)
        yield abs(width), abs(height) // 2
