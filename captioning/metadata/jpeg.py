"""The metadata of a JPEG: its segments before the first scan, all behind them as it is.

JPEG: ITU T.81, annex B. EXIF and its place: CIPA DC-008. XMP: XMP specification part 3, 1.1.3.
Several images in one file (MPO): CIPA DC-007.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from captioning.errors import OutputError
from captioning.metadata import photoshop, tiff, xmp
from captioning.metadata.blocks import Blocks

SIGNATURE = b"\xff\xd8\xff"

_APP0, _APP1, _APP2, _APP13 = 0xE0, 0xE1, 0xE2, 0xED
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_MAX_PAYLOAD = 0xFFFF - 2
_EXIF = b"Exif\0\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_PHOTOSHOP = b"Photoshop 3.0\0"
_MPF = b"MPF\0"
_MAX_PREVIEWS = 16
_AFCP = b"AXS"
_MP_ENTRIES = 0xB002


@dataclass(frozen=True)
class _Segment:
    marker: int
    payload: bytes
    fill: bytes = b""
    """Bytes 255 before the marker, which are allowed."""

    def pack(self) -> bytes:
        if len(self.payload) > _MAX_PAYLOAD:
            raise OutputError(
                f"Its metadata would have {len(self.payload)} bytes in one segment; a JPEG's "
                f"segment ends at {_MAX_PAYLOAD}."
            )
        length = (len(self.payload) + 2).to_bytes(2, "big")
        return self.fill + bytes((0xFF, self.marker)) + length + self.payload

    def holds(self, marker: int, header: bytes) -> bool:
        return self.marker == marker and self.payload.startswith(header)


def read_blocks(data: bytes) -> Blocks:
    """Return the metadata of a JPEG.

    Raises:
        OutputError: The file is damaged.
    """
    segments, _ = _split(data)
    resources = _resources(segments)
    return Blocks(
        xmp=_payload(segments, _XMP),
        iptc=None if resources is None else photoshop.read_iptc(resources),
        exif=_payload(segments, _EXIF),
    )


def write_blocks(data: bytes, blocks: Blocks) -> bytes:
    """Return a JPEG with other metadata, every other segment and the scans as they were.

    Raises:
        OutputError: The file is damaged, or a block is too long for a segment.
    """
    old, rest = _split(data)
    if data[-12:-9] == _AFCP:
        raise OutputError("An AFCP trailer would lose its place: it counts from the file's start.")
    new = list(old)
    if blocks.exif is not None:
        _put(new, _EXIF, blocks.exif, (_APP0,))
    if blocks.xmp is not None:
        fits = len(_XMP) + len(blocks.xmp) <= _MAX_PAYLOAD
        _put(new, _XMP, blocks.xmp if fits else xmp.without_padding(blocks.xmp), (_APP0, _APP1))
    if blocks.iptc is not None:
        _put_resources(new, photoshop.with_iptc(_resources(old) or b"", blocks.iptc))
    new = _with_previews_found(old, _with_images_found(old, new), rest)
    return b"\xff\xd8" + b"".join(segment.pack() for segment in new) + rest


def _split(data: bytes) -> tuple[list[_Segment], bytes]:
    """Return the segments before the first scan, and all that follows."""
    segments = []
    place = 2
    while True:
        start = place
        while data[place : place + 2] == b"\xff\xff":
            place += 1
        marker = data[place + 1] if place + 4 <= len(data) and data[place] == 0xFF else None
        if marker is None or marker in (0x00, 0x01, *range(0xD0, _SOS)):
            raise OutputError(f"It is damaged: no segment of a JPEG begins at byte {start}.")
        if marker == _SOS:
            break
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if end < place + 4 or end > len(data):
            raise OutputError(f"It is damaged: a segment of {end - place} bytes at byte {start}.")
        segments.append(_Segment(marker, data[place + 4 : end], data[start:place]))
        place = end
    if data.find(bytes((0xFF, _EOI)), place) < 0:
        raise OutputError("It is damaged: the image has no end. Get it whole again.")
    return segments, data[start:]


def _payload(segments: list[_Segment], header: bytes) -> bytes | None:
    found = [segment for segment in segments if segment.holds(_APP1, header)]
    if header == _EXIF and len(found) > 1:
        raise OutputError(f"Its EXIF stands in {len(found)} segments; one is what can be changed.")
    return found[0].payload[len(header) :] if found else None


def _resources(segments: list[_Segment]) -> bytes | None:
    """Return the resources of Photoshop, which may go on over several segments."""
    found = [segment for segment in segments if segment.holds(_APP13, _PHOTOSHOP)]
    payloads = [segment.payload[len(_PHOTOSHOP) :] for segment in found]
    return b"".join(payloads) if found else None


def _put(segments: list[_Segment], header: bytes, block: bytes, behind: tuple[int, ...]) -> None:
    """Put a block where the old one is or, where none is, behind the leading segments named."""
    for number, segment in enumerate(segments):
        if segment.holds(_APP1, header):
            segments[number] = replace(segment, payload=header + block)
            return
    segments.insert(
        _first(segments, lambda s: s.marker not in behind), _Segment(_APP1, header + block)
    )


def _put_resources(segments: list[_Segment], resources: bytes) -> None:
    def is_old(segment: _Segment) -> bool:
        return segment.holds(_APP13, _PHOTOSHOP)

    place = _first(segments, is_old)
    if place == len(segments):
        place = _first(segments, lambda segment: segment.marker not in (_APP0, _APP1))
    size = _MAX_PAYLOAD - len(_PHOTOSHOP)
    segments[:] = [
        *segments[:place],
        *(
            _Segment(_APP13, _PHOTOSHOP + resources[start : start + size])
            for start in range(0, len(resources), size)
        ),
        *(segment for segment in segments[place:] if not is_old(segment)),
    ]


def _first(segments: list[_Segment], fits: Callable[[_Segment], bool]) -> int:
    return next((n for n, segment in enumerate(segments) if fits(segment)), len(segments))


def _with_images_found(old: list[_Segment], new: list[_Segment]) -> list[_Segment]:
    """Return the new segments with an MPF index that points to where its images are now.

    Its offsets count from the index itself; the first image, this one, has offset 0.
    """
    place, new_place = (_first(all_, lambda s: s.holds(_APP2, _MPF)) for all_ in (old, new))
    if place == len(old):
        return new
    index = bytearray(old[place].payload[len(_MPF) :])
    entries = tiff.find(bytes(index), _MP_ENTRIES)
    if entries is None or (entries.stop - entries.start) % 16:
        raise OutputError("Its index of several images (MPF) is broken.")
    growth = _size(new) - _size(old)
    shift = _size(new[new_place:]) - _size(old[place:])
    order = _byte_order(index)
    for entry in range(entries.start, entries.stop, 16):
        offset = int.from_bytes(index[entry + 8 : entry + 12], order)
        field, change = (entry + 8, shift) if offset else (entry + 4, growth)
        value = int.from_bytes(index[field : field + 4], order) + change
        if not 0 <= value < 2**32:
            raise OutputError("Its index of several images (MPF) is broken.")
        index[field : field + 4] = value.to_bytes(4, order)
    changed = replace(new[new_place], payload=_MPF + bytes(index))
    return [*new[:new_place], changed, *new[new_place + 1 :]]


def _with_previews_found(old: list[_Segment], new: list[_Segment], rest: bytes) -> list[_Segment]:
    """Return the new segments with an EXIF block that points to where the previews are now.

    Some maker notes hold the place of a preview behind the image, counted from the block's start.
    The notes are secret, but that very number of four bytes does not stand there by chance.
    """
    place, new_place = (_first(all_, lambda s: s.holds(_APP1, _EXIF)) for all_ in (old, new))
    if place == len(old):
        return new
    head = len(_EXIF)
    order = _byte_order(old[place].payload[head:])
    start = len(old[place].pack()) - len(old[place].payload) + head
    shift = _size(new[new_place:]) - _size(old[place:])
    moved = {}
    for found in islice(re.finditer(SIGNATURE, rest), _MAX_PREVIEWS):
        offset = _size(old[place:]) - start + found.start()
        if _MAX_PAYLOAD < offset < 2**32 - shift:
            moved[offset.to_bytes(4, order)] = (offset + shift).to_bytes(4, order)
    if not moved:
        return new
    offsets = re.compile(b"|".join(re.escape(offset) for offset in moved))
    payload, known = new[new_place].payload, len(old[place].payload)
    payload = offsets.sub(lambda match: moved[match.group()], payload[:known]) + payload[known:]
    return [*new[:new_place], replace(new[new_place], payload=payload), *new[new_place + 1 :]]


def _byte_order(block: bytes | bytearray) -> Literal["little", "big"]:
    return "little" if block.startswith(b"II") else "big"


def _size(segments: list[_Segment]) -> int:
    return sum(len(segment.pack()) for segment in segments)
