"""The metadata of a WebP: the chunks of its RIFF container. RFC 9649, section 2.

A file of one image chunk is given the header (VP8X) that metadata needs.
"""

from dataclasses import dataclass, replace

from captioning.errors import OutputError
from captioning.metadata.blocks import Blocks

_ALPHA, _EXIF_FLAG, _XMP_FLAG = 0x10, 0x08, 0x04
_EXIF, _XMP = b"EXIF", b"XMP "
_EXIF_HEADER = b"Exif\0\0"  # of JPEG; some programs write it here, too
_IMAGES = (b"VP8 ", b"VP8L", b"ANMF")


@dataclass(frozen=True)
class _Chunk:
    kind: bytes
    data: bytes

    def pack(self) -> bytes:
        size = len(self.data).to_bytes(4, "little")
        return self.kind + size + self.data + b"\0" * (len(self.data) % 2)


def read_blocks(data: bytes) -> Blocks:
    """Return the metadata of a WebP.

    Raises:
        OutputError: The file is damaged.
    """
    chunks, _ = _split(data)
    exif = next((chunk.data for chunk in chunks if chunk.kind == _EXIF), None)
    xmp = next((chunk.data for chunk in chunks if chunk.kind == _XMP), None)
    return Blocks(xmp=xmp, exif=exif and exif.removeprefix(_EXIF_HEADER))


def write_blocks(data: bytes, blocks: Blocks) -> bytes:
    """Return a WebP with other metadata, every other chunk as it was.

    Raises:
        OutputError: The file is damaged.
    """
    chunks, rest = _split(data)
    if chunks[0].kind != b"VP8X":
        chunks.insert(0, _extended_header(chunks[0]))
    if blocks.exif is not None:
        prefixes = (chunk.data.startswith(_EXIF_HEADER) for chunk in chunks if chunk.kind == _EXIF)
        prefix = _EXIF_HEADER if next(prefixes, False) else b""
        _put(chunks, _Chunk(_EXIF, prefix + blocks.exif), _EXIF_FLAG)
    if blocks.xmp is not None:
        _put(chunks, _Chunk(_XMP, blocks.xmp), _XMP_FLAG)
    body = b"WEBP" + b"".join(chunk.pack() for chunk in chunks)
    return b"RIFF" + len(body).to_bytes(4, "little") + body + rest


def _split(data: bytes) -> tuple[list[_Chunk], bytes]:
    """Return the chunks of the container, and what follows it."""
    end = 8 + int.from_bytes(data[4:8], "little")
    chunks = []
    place = 12
    while place < end:
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        chunk = _Chunk(data[place : place + 4], data[place + 8 : place + 8 + size])
        place += 8 + size
        if place > min(end, len(data)):
            raise OutputError(f"It is damaged: the chunk {chunk.kind!r} ends behind the file.")
        chunks.append(chunk)
        place += size % 2
    extended = chunks and chunks[0].kind == b"VP8X"
    images = [chunk for chunk in chunks if chunk.kind in _IMAGES]
    if not images or not (extended or chunks[0] is images[0]):
        raise OutputError(f"It is damaged: a WebP of {len(chunks)} chunks without an image.")
    if extended and len(chunks[0].data) < 10:
        raise OutputError(f"It is damaged: a header (VP8X) of {len(chunks[0].data)} bytes.")
    return chunks, data[place:]


def _extended_header(image: _Chunk) -> _Chunk:
    """Return the header for a file that has none, with the size and the alpha of its image."""
    data = image.data
    if image.kind == b"VP8L" and data[:1] == b"\x2f" and len(data) >= 5:
        bits = int.from_bytes(data[1:5], "little")  # 14 of width - 1, 14 of height - 1, 1 of alpha
        width, height, alpha = bits & 0x3FFF, bits >> 14 & 0x3FFF, bits >> 28 & 1
    elif image.kind == b"VP8 " and data[3:6] == b"\x9d\x01\x2a" and len(data) >= 10:
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (6, 8))
        width, height, alpha = width - 1, height - 1, 0
    else:
        raise OutputError(f"It is damaged: its image begins with {data[:10]!r}.")
    if min(width, height) < 0:
        raise OutputError("It is damaged: its image has no pixels.")
    size = width.to_bytes(3, "little") + height.to_bytes(3, "little")
    return _Chunk(b"VP8X", bytes((_ALPHA * alpha, 0, 0, 0)) + size)


def _put(chunks: list[_Chunk], new: _Chunk, flag: int) -> None:
    """Put a chunk where the old one is or at the end, and say in the header that it is there."""
    header = chunks[0]
    chunks[0] = replace(header, data=bytes((header.data[0] | flag,)) + header.data[1:])
    for number, chunk in enumerate(chunks):
        if chunk.kind == new.kind:
            chunks[number] = new
            return
    before = len(chunks)
    if new.kind == _EXIF:
        kinds = [chunk.kind for chunk in chunks]
        before = kinds.index(_XMP) if _XMP in kinds else before
    chunks.insert(before, new)
