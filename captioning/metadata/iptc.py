"""The caption in the datasets of IPTC: read, and written beside those that are there.

A dataset is a byte 28, the record's number, its own number, the length, the value. IPTC-NAA
Information Interchange Model 4.2, sections 1.5 and 6; the caption is 2:120, the marker of the
encoding 1:90.
"""

from dataclasses import dataclass

from captioning.errors import OutputError

_CAPTION = (2, 120)
_ENCODING = (1, 90)
_VERSION = (2, 0)
_UTF8 = b"\x1b%G"
_LATIN1 = (b"\x1b.A", b"\x1b-A")
_MAX_CAPTION = 2000  # bytes, by the standard
_NO_TEXT = {0, 125, 200, 201, 202}  # of record 2: versions, images


@dataclass(frozen=True)
class _DataSet:
    kind: tuple[int, int]
    value: bytes

    def pack(self) -> bytes:
        size = len(self.value)
        long = size > 0x7FFF
        length = b"\x80\x04" + size.to_bytes(4, "big") if long else size.to_bytes(2, "big")
        return bytes((0x1C, *self.kind)) + length + self.value

    @property
    def is_foreign(self) -> bool:
        """Whether this is text whose bytes mean something only in a known encoding."""
        record, number = self.kind
        return record == 2 and number not in _NO_TEXT and not self.value.isascii()


def read_caption(iptc: bytes) -> str | None:
    """Return the caption, or None where there is none or a blank one.

    Raises:
        OutputError: The datasets are broken.
    """
    for dataset in _split(iptc):
        if dataset.kind == _CAPTION and (text := _decode(dataset.value).strip("\0 \t\r\n")):
            return text
    return None


def with_caption(iptc: bytes | None, caption: str) -> bytes:
    """Return datasets whose caption is this one, as UTF-8; None makes new ones.

    The standard ends a caption at 2000 bytes, and so it ends here. Where the text of other
    datasets is Latin, it becomes UTF-8 with the marker that says so.

    Raises:
        OutputError: The datasets are broken, or in an encoding that is not known.
    """
    value = caption.encode()[:_MAX_CAPTION].decode(errors="ignore").encode()
    if iptc is None:
        fresh = [_DataSet(_ENCODING, _UTF8), _DataSet(_VERSION, b"\0\4")]
        return b"".join(dataset.pack() for dataset in [*fresh, _DataSet(_CAPTION, value)])
    datasets = [dataset for dataset in _split(iptc) if dataset.kind != _CAPTION]
    marker = next((dataset.value for dataset in datasets if dataset.kind == _ENCODING), None)
    if marker != _UTF8 and not (marker is None and value.isascii()):
        datasets = _as_utf8(datasets, marker)
    place = sum(dataset.kind[0] <= 2 for dataset in datasets)
    datasets.insert(place, _DataSet(_CAPTION, value))
    if not any(dataset.kind == _VERSION for dataset in datasets):
        place = sum(dataset.kind[0] < 2 for dataset in datasets)
        datasets.insert(place, _DataSet(_VERSION, b"\0\4"))
    return b"".join(dataset.pack() for dataset in datasets)


def _split(iptc: bytes) -> list[_DataSet]:
    datasets = []
    place = 0
    while place < len(iptc) and iptc[place] == 0x1C:
        record, number = iptc[place + 1 : place + 2], iptc[place + 2 : place + 3]
        size = int.from_bytes(iptc[place + 3 : place + 5], "big")
        place += 5
        if size & 0x8000:  # the length of the length
            width = size & 0x7FFF
            size = int.from_bytes(iptc[place : place + min(width, 8)], "big")
            place += width
        if place + size > len(iptc):
            raise OutputError(f"Its IPTC is broken: a dataset ends behind byte {len(iptc)}.")
        datasets.append(_DataSet((record[0], number[0]), iptc[place : place + size]))
        place += size
    if iptc[place:].strip(b"\0"):
        raise OutputError(f"Its IPTC is broken: no dataset begins at byte {place}.")
    return datasets


def _as_utf8(datasets: list[_DataSet], marker: bytes | None) -> list[_DataSet]:
    """Return datasets whose text is UTF-8, with the marker that says so."""
    if marker not in (None, *_LATIN1) and any(dataset.is_foreign for dataset in datasets):
        raise OutputError(f"Its IPTC is in an encoding that is not known (marker {marker!r}).")
    translated = [
        _DataSet(dataset.kind, _decode(dataset.value).encode()) if dataset.is_foreign else dataset
        for dataset in datasets
        if dataset.kind != _ENCODING
    ]
    place = sum(dataset.kind <= (1, 0) for dataset in translated)
    translated.insert(place, _DataSet(_ENCODING, _UTF8))
    return translated


def _decode(value: bytes) -> str:
    """Return text that is UTF-8 or, else, Windows Latin, whatever the marker says."""
    for encoding in ("utf-8", "cp1252"):
        try:
            return value.decode(encoding)
        except UnicodeDecodeError:
            continue
    return value.decode("latin-1")
