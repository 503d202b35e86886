"""The metadata of a PNG: its chunks. PNG specification, third edition, section 11.3."""

import zlib
from dataclasses import dataclass

from captioning.errors import OutputError
from captioning.metadata.blocks import Blocks
from captioning.metadata.xmp import MAX_BYTES

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_XMP = b"XML:com.adobe.xmp"
_DESCRIPTION = b"Description"
_EXIF_HEADER = b"Exif\0\0"  # of JPEG; some programs write it here, too


@dataclass(frozen=True)
class _Chunk:
    kind: bytes
    data: bytes

    def pack(self) -> bytes:
        size = len(self.data).to_bytes(4, "big")
        return size + self.kind + self.data + self.checksum().to_bytes(4, "big")

    def checksum(self) -> int:
        return zlib.crc32(self.kind + self.data)

    def holds(self, keyword: bytes, *kinds: bytes) -> bool:
        return self.kind in kinds and self.data.startswith(keyword + b"\0")

    @property
    def is_description(self) -> bool:
        """Whether this is the description in no language or the default one."""
        translated = self.kind == b"iTXt" and self.data[len(_DESCRIPTION) + 3 :][:1] != b"\0"
        return self.holds(_DESCRIPTION, b"tEXt", b"zTXt", b"iTXt") and not translated


def read_blocks(data: bytes) -> Blocks:
    """Return the metadata of a PNG.

    Raises:
        OutputError: The file is damaged.
    """
    chunks, _ = _split(data)
    exif = next((chunk.data for chunk in chunks if chunk.kind == b"eXIf"), None)
    xmp = next((_text(chunk) for chunk in chunks if chunk.holds(_XMP, b"iTXt")), None)
    texts = [_text(chunk) for chunk in chunks if chunk.is_description]
    return Blocks(
        xmp=xmp,
        exif=exif and exif.removeprefix(_EXIF_HEADER),
        text=next((text.decode(errors="replace").strip() for text in texts), None) or None,
    )


def write_blocks(data: bytes, blocks: Blocks) -> bytes:
    """Return a PNG with other metadata, every other chunk as it was.

    Raises:
        OutputError: The file is damaged.
    """
    chunks, rest = _split(data)
    if blocks.exif is not None:
        old = next((number for number, chunk in enumerate(chunks) if chunk.kind == b"eXIf"), None)
        header = _EXIF_HEADER if old and chunks[old].data.startswith(_EXIF_HEADER) else b""
        _put(chunks, old, _Chunk(b"eXIf", header + blocks.exif))
    if blocks.text is not None:
        places = [number for number, chunk in enumerate(chunks) if chunk.is_description]
        for number in places[:0:-1]:
            del chunks[number]
        _put(chunks, places[0] if places else None, _description(blocks.text))
    if blocks.xmp is not None:
        holders = (number for number, chunk in enumerate(chunks) if chunk.holds(_XMP, b"iTXt"))
        new = _Chunk(b"iTXt", _XMP + b"\0\0\0\0\0" + blocks.xmp)
        _put(chunks, next(holders, None), new)
    return SIGNATURE + b"".join(chunk.pack() for chunk in chunks) + rest


def _split(data: bytes) -> tuple[list[_Chunk], bytes]:
    """Return the chunks to the last one, and what follows it."""
    chunks: list[_Chunk] = []
    place = len(SIGNATURE)
    while not chunks or chunks[-1].kind != b"IEND":
        size = int.from_bytes(data[place : place + 4], "big")
        chunk = _Chunk(data[place + 4 : place + 8], data[place + 8 : place + 8 + size])
        end = place + 12 + size
        if end > len(data) or chunk.checksum() != int.from_bytes(data[end - 4 : end], "big"):
            raise OutputError(
                f"It is damaged: the chunk {chunk.kind!r} at byte {place} is not whole."
            )
        chunks.append(chunk)
        place = end
    if chunks[0].kind != b"IHDR" or not any(chunk.kind == b"IDAT" for chunk in chunks):
        raise OutputError(f"It is damaged: a PNG of {len(chunks)} chunks without an image.")
    return chunks, data[place:]


def _text(chunk: _Chunk) -> bytes:
    """Return the text of a text chunk, as UTF-8."""
    content = chunk.data.partition(b"\0")[2]
    packed = chunk.kind == b"zTXt"
    if packed:
        content = content[1:]
    elif chunk.kind == b"iTXt":
        packed = content[:1] == b"\1"
        content = content[2:].partition(b"\0")[2].partition(b"\0")[2]
    if packed:
        content = _unpacked(content)
    return content if chunk.kind == b"iTXt" else content.decode("latin-1").encode()


def _unpacked(content: bytes) -> bytes:
    try:
        unpacked = zlib.decompressobj().decompress(content, MAX_BYTES + 1)
    except zlib.error as error:
        raise OutputError(f"It is damaged: a packed text cannot be read ({error}).") from error
    if len(unpacked) > MAX_BYTES:
        raise OutputError(f"A packed text of it has more than {MAX_BYTES} bytes.")
    return unpacked


def _description(text: str) -> _Chunk:
    if text.isascii():
        return _Chunk(b"tEXt", _DESCRIPTION + b"\0" + text.encode())
    return _Chunk(b"iTXt", _DESCRIPTION + b"\0\0\0\0\0" + text.encode())


def _put(chunks: list[_Chunk], place: int | None, chunk: _Chunk) -> None:
    """Put a chunk in the place of an old one, else behind the header, where each is allowed."""
    if place is None:
        chunks.insert(1, chunk)
    else:
        chunks[place] = chunk
