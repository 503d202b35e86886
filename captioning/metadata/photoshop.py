"""The image resources of Photoshop, in which a JPEG keeps its IPTC.

Each is a signature, a number, a name and data, name and data padded to an even length. Adobe
Photoshop File Formats Specification, "Image Resource Blocks".
"""

import hashlib
from dataclasses import dataclass

from captioning.errors import OutputError

_IPTC = 0x0404
_DIGEST = 0x0425  # the MD5 of the IPTC: who finds another one there takes the XMP for stale
_SIGNATURES = (b"8BIM", b"MeSa", b"AgHg", b"PHUT", b"DCSR")


@dataclass(frozen=True)
class _Resource:
    number: int
    head: bytes
    """Signature, number and name as they stand there."""

    data: bytes

    def pack(self) -> bytes:
        size = len(self.data).to_bytes(4, "big")
        return self.head + size + self.data + b"\0" * (len(self.data) % 2)


def read_iptc(resources: bytes) -> bytes | None:
    """Return the IPTC among the resources.

    Raises:
        OutputError: The resources are broken.
    """
    found = (resource.data for resource in _split(resources) if resource.number == _IPTC)
    return next(found, None)


def with_iptc(resources: bytes, iptc: bytes) -> bytes:
    """Return resources with other IPTC, and its digest renewed if it was right before.

    Raises:
        OutputError: The resources are broken.
    """
    old = _split(resources)
    before = read_iptc(resources)
    changes = {_IPTC: iptc}
    digest = next((resource.data for resource in old if resource.number == _DIGEST), None)
    if before is not None and digest == _md5(before):
        changes[_DIGEST] = _md5(iptc)
    new = [
        _Resource(resource.number, resource.head, changes.get(resource.number, resource.data))
        for resource in old
    ]
    if before is None:
        new.append(_Resource(_IPTC, b"8BIM" + _IPTC.to_bytes(2, "big") + b"\0\0", iptc))
    return b"".join(resource.pack() for resource in new)


def _split(resources: bytes) -> list[_Resource]:
    found = []
    place = 0
    while place < len(resources) and resources[place]:
        head = resources[place : place + 7]
        name = head[6] if len(head) == 7 else 0
        size_at = place + 6 + (name + 2) // 2 * 2
        start = size_at + 4
        size = int.from_bytes(resources[size_at:start], "big")
        if head[:4] not in _SIGNATURES or start + size > len(resources):
            raise OutputError(
                f"Its Photoshop resources are broken: {head[:4]!r} with {size} bytes at byte "
                f"{place} of {len(resources)}."
            )
        number = int.from_bytes(head[4:6], "big")
        data = resources[start : start + size]
        found.append(_Resource(number, resources[place:size_at], data))
        place = start + size + size % 2
    if resources[place:].strip(b"\0"):
        raise OutputError(f"Its Photoshop resources are broken: none begins at byte {place}.")
    return found


def _md5(iptc: bytes) -> bytes:
    return hashlib.md5(iptc, usedforsecurity=False).digest()
