"""The blocks of metadata that an image file can hold, whatever its format."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Blocks:
    """The metadata of one file as it stands there; None where the file has no such block."""

    xmp: bytes | None = None
    """The XMP packet: XML."""

    iptc: bytes | None = None
    """The IPTC datasets (IIM 4)."""

    exif: bytes | None = None
    """The EXIF block: a little TIFF file without pixels, from its byte order mark on."""

    text: str | None = None
    """The description in a text chunk of its own, which only PNG has."""
