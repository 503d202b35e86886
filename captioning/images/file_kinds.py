"""What a file is and how large its images are, told without Pillow."""

import importlib
import importlib.util
import io
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

_TIFF = (
    "it begins as a TIFF does, but is damaged, a camera's raw file, or holds numbers that Pillow "
    "does not read. Convert it."
)
_SIGNATURES = (
    (b"\xff\xd8", "it begins as a JPEG does, but is damaged or cut short. Get it again."),
    (b"\x89PNG", "it begins as a PNG does, but is damaged or cut short. Get it again."),
    (b"GIF8", "it begins as a GIF does, but is damaged or cut short. Get it again."),
    (b"BM", "it begins as a BMP does, but is damaged or cut short. Get it again."),
    (b"RIFF", "it begins as a WebP or a video does, but is damaged or cut short. Get it again."),
    (b"II*\0", _TIFF),
    (b"MM\0*", _TIFF),
    (b"%PDF", "it is a PDF document. Save its pages as images."),
    (b"PK\x03\x04", "it is a zip archive or an office document. Unpack it."),
    (b"\x1aE\xdf\xa3", "it is a video. Save a frame as an image."),
)
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


def describe_contents(head: bytes) -> str:
    """Say what a file holds that Pillow cannot open, and what to do.

    Args:
        head: Its first bytes.
    """
    if not head:
        return "it is empty. Get it again."
    if not head.strip(b"\0"):
        return "it begins with zeros only, as after a broken copy. Get it again."
    found = [found for signature, found in _SIGNATURES if head.startswith(signature)]
    if found:
        return found[0]
    if head[4:8] == b"ftyp":
        return _describe_media(head[8:12])
    if text := _text(head):
        return _describe_text(text)
    return f"Pillow knows no format that begins with {head[:12]!r}. Convert it to PNG or JPEG."


def _describe_text(text: str) -> str:
    if "<svg" in text:
        return "it is an SVG drawing. Convert it to PNG."
    if "<html" in text or "<!doctype html" in text:
        return "it is a web page; a download may have failed. Get it again."
    return f"it holds text ({text[:20]!r}). Check what the file is."


def _describe_media(brand: bytes) -> str:
    if brand in _HEIF_BRANDS:
        return "it is a HEIC image. Install its decoder: pip install pillow-heif."
    if brand in (b"avif", b"avis"):
        return "it is a damaged AVIF, or this Pillow reads none: pip install -U pillow."
    return "it is a video. Save a frame as an image."


def _text(head: bytes) -> str:
    try:
        # A long head may end in the middle of a character.
        text = head.decode("utf-8", "strict" if len(head) < 256 else "ignore").lower()
    except UnicodeDecodeError:
        return ""
    plain = sum(each.isprintable() or each.isspace() for each in text)
    return text if text.strip() and plain == len(text) else ""


def learn_heif(head: bytes) -> bool:
    """Teach Pillow to read HEIC, where ``head`` begins such a file and pillow-heif is installed."""
    if head[4:8] != b"ftyp" or head[8:12] not in _HEIF_BRANDS:
        return False
    if importlib.util.find_spec("pillow_heif") is None:
        return False
    importlib.import_module("pillow_heif").register_heif_opener()
    return True


def jpeg_header_length(content: bytes) -> int:
    """Return how many bytes lie before the first scan of a JPEG; ISO 10918-1, annex B."""
    place = 2
    while place + 4 <= len(content) and content[place] == 0xFF:
        kind = content[place + 1]
        place += 1 if kind == 0xFF else 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        if kind == 0xDA:
            break
    return place


_PNG, _ICO, _ICNS = b"\x89PNG\r\n\x1a\n", b"\0\0\1\0", b"icns"
_CODESTREAM, _JP2_SIZE = b"\xff\x4f\xff\x51", b"ihdr"
_BITMAP = b"\x28\0\0\0"  # the length of the header that all icons have


def sizes_inside(file: Any) -> Iterator[tuple[int, int]]:
    """Yield the sizes that Pillow would come to know only when it has taken the memory for them.

    A WebP's canvas is made as the file is opened, an ICO is unpacked then, and an ICNS may hold
    images of other sizes than it says.

    Args:
        file: An open binary file. Nothing is yielded where it cannot be rewound.

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
        with suppress(struct.error):  # cut short: Pillow will say so
            for part in parts:
                yield from _size_of_part(part)
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
    for place in range(count):
        (start,) = struct.unpack_from("<I", content, 6 + 16 * place + 12)
        yield content[start : start + 26]


def _icns_parts(content: bytes) -> Iterator[bytes]:
    start = 8
    while start + 8 <= len(content):
        (length,) = struct.unpack_from(">I", content, start + 4)
        yield content[start + 8 : start + min(max(length, 8), 4096)]
        start += max(length, 8)


def _size_of_part(part: bytes) -> Iterator[tuple[int, int]]:
    if part.startswith(_PNG):
        yield struct.unpack_from(">II", part, 16)
    elif (place := part.find(_CODESTREAM)) >= 0:  # ISO 15444-1, annex A.5.1
        right, bottom, left, top = struct.unpack_from(">IIII", part, place + 8)
        yield right - left, bottom - top
    elif (place := part.find(_JP2_SIZE)) >= 0:  # ISO 15444-1, annex I.5.3.1
        height, width = struct.unpack_from(">II", part, place + 4)
        yield width, height
    elif part.startswith(_BITMAP):  # its height counts its mask too
        width, height = struct.unpack_from("<ii", part, 4)
        yield abs(width), abs(height) // 2
