"""Where captions stand in the metadata of images: what is read, and what must be written.

A caption is written to XMP ``dc:description``, and, where the format has them, to EXIF
``ImageDescription``, IPTC ``Caption-Abstract`` and the PNG text chunk ``Description``. Copies of
the old caption that other programs wrote elsewhere are replaced too. Standards: XMP specification
part 3; EXIF 2.32; IPTC-NAA IIM 4.2; guidelines of the Metadata Working Group 2.0.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from captioning.bulk.writers.machine_text import is_machine_text
from captioning.errors import OutputError

Tags = Mapping[str, list[str]]
"""Values by tag name, as :meth:`ExifTool.read_tags` returns them."""

_FILE_TYPE, _BYTE_ORDER = "File:FileType", "File:ExifByteOrder"
_XMP = "XMP-dc:Description"
_IPTC, _SECOND_IPTC = "IPTC:Caption-Abstract", "IPTC2:Caption-Abstract"
_EXIF = "IFD0:ImageDescription"
_PNG = "PNG:Description"
_XMP_TIFF = "XMP-tiff:ImageDescription"
_XP = "IFD0:XPComment"
_COPIES = (  # Windows, digiKam, ACDSee and others write the caption here too
    *(_XMP_TIFF, "XMP-exif:UserComment", "XMP-acdsee:Notes", "ExifIFD:UserComment"),
    *(_XP, "File:Comment", "PNG:Comment"),
)
_TRANSLATABLE = (_XMP, _XMP_TIFF, "XMP-exif:UserComment")
_DEVICES = ("IFD0:Make", "IFD0:Model", "IFD0:Software")
_DIGEST = "Photoshop:IPTCDigest"
_IPTC_BLOCK = "IPTC:IPTC"
_ENCODING = "IPTC:CodedCharacterSet"
READ_OPTIONS = (
    *(f"-{_XMP}*", f"-{_PNG}*", f"-{_EXIF}", f"-{_FILE_TYPE}", f"-{_DIGEST}"),
    *("-IPTC:all", "-IPTC", "--IPTC:ObjectPreviewData", "--IPTC:RasterizedCaption"),
    *(f"-{name}" for name in (*_COPIES, *_DEVICES, _BYTE_ORDER)),
)
"""Options of exiftool that read the tags needed here."""
_WRITE_OPTIONS = (
    # Expanded and indented XMP would need a second segment of a JPEG sooner.
    *("-api", "Compact=Shorthand,OneDesc,NoIndent,NoNewline"),
    *("-api", "NoMultiExif=1"),  # most programs read only the first segment
)
# exiftool adds a resolution of 72 dpi to new EXIF, which may contradict that of the format.
_NO_DEFAULTS = tuple(
    f"-IFD0:{name}="
    for name in ("XResolution", "YResolution", "ResolutionUnit", "YCbCrPositioning")
)
_MAX_IPTC_BYTES = 2000
_IPTC_TYPES = ("JPEG", "MPO", "TIFF")
_PNG_TYPES = ("PNG", "APNG")
_LATIN_MARKERS = ("ESC . A", "ESC - A")  # ISO 8859-1, as exiftool prints them
_UNKNOWN = re.compile("[\udc80-\udcff]")  # bytes that are not Windows-1252
_DATA = re.compile(r'\s*(<\?xml\b|<OME\b|(\w+:)?\s*\{\s*"|ImageJ=|SCANIMAGE|Aperio )')


@dataclass(frozen=True)
class TagChanges:
    """What exiftool must write into an image."""

    values: tuple[tuple[str, str], ...]
    """Pairs of a tag and its new text."""
    options: tuple[str, ...]
    """Further options of exiftool."""


def find_captions(tags: Tags) -> Iterator[str]:
    """Yield the captions of XMP, IPTC, EXIF and PNG text, in this order.

    Texts that cameras and programs write count as none.
    """
    devices = [_text(tags, name) for name in _DEVICES]
    translations = [name for name in tags if name.startswith((f"{_XMP}-", f"{_PNG}-"))]
    for name in (_XMP, _IPTC, _SECOND_IPTC, _EXIF, _XMP_TIFF, _PNG, *translations):
        text = _text(tags, name)
        if not is_machine_text(text, *devices) and not _is_data(tags, name):
            yield text


def plan_changes(tags: Tags, caption: str) -> TagChanges:
    """Return what to write into an image that has ``tags``.

    Raises:
        OutputError: The encoding of its IPTC text is unknown.
    """
    old, file_type = set(find_captions(tags)), _text(tags, _FILE_TYPE)
    values = {_XMP: caption}
    if not _is_data(tags, _EXIF):
        values[_EXIF] = caption
    if file_type in _PNG_TYPES and not _is_data(tags, _PNG):
        values[_PNG] = caption
    values |= {name: caption for name in _COPIES if _text(tags, name) in old}
    if _XMP_TIFF in tags:  # the same property as in EXIF
        values[_XMP_TIFF] = caption
    iptc, rewritten = _merge_iptc(tags), []
    options = [*_WRITE_OPTIONS, *(() if _BYTE_ORDER in tags else _NO_DEFAULTS)]
    # Readers of PNG text ignore the language of a chunk.
    options += [f"-{name}=" for name in tags if name.startswith(f"{_PNG}-")]
    if _XP in values and max(caption) > "\uffff":  # exiftool 12.57 writes these wrongly
        del values[_XP]
        options.append(f"-{_XP}=")
    if iptc or file_type in _IPTC_TYPES:
        short = caption.encode("utf-8")[:_MAX_IPTC_BYTES].decode("utf-8", "ignore")
        values[_IPTC] = short
        # If the only IPTC of a TIFF is in its Photoshop data, the new block must be complete.
        is_new = _IPTC_BLOCK not in tags
        if is_new or not short.isascii():
            rewritten = _find_rewritten_iptc(iptc, is_new)
            options.append(f"-{_ENCODING}=UTF8")
    # With a wrong digest, photo programs prefer IPTC to XMP. It stays wrong, so they still do.
    if _is_digest_valid(tags):
        options.append(f"-{_DIGEST}=new")
    return TagChanges((*values.items(), *rewritten), tuple(options))


def write_name(name: str) -> str:
    """Return the name under which exiftool writes a tag without touching its translations."""
    return f"{name}-x-default" if name in _TRANSLATABLE else name


def check_changes(changes: TagChanges, before: Tags, after: Tags) -> None:
    """Check that a new file has the new caption in all places, and the old one in none.

    Raises:
        OutputError: It has another caption, or none.
    """
    expected = dict(changes.values)
    if _SECOND_IPTC in after:
        expected[_SECOND_IPTC] = expected.get(_IPTC, "")
    for name in (_XMP, _IPTC, _SECOND_IPTC, _EXIF, _PNG, *_COPIES):
        found, wanted = _text(after, name), expected.get(name, _text(before, name)).strip()
        if name == _XMP and not found:
            kind = _text(after, _FILE_TYPE)
            raise OutputError(f"exiftool cannot write XMP into files of type {kind or 'unknown'}.")
        if found and found != wanted:
            raise OutputError(f"exiftool wrote another {name} than requested: {found!r}.")


def _text(tags: Tags, name: str) -> str:
    return tags.get(name, [""])[0].strip("\0 \t\r\n")


def _is_data(tags: Tags, name: str) -> bool:
    """Return whether a tag holds data of a program, such as OME-XML, which must stay."""
    return name in (_EXIF, _PNG) and bool(_DATA.match(_text(tags, name)))


def _merge_iptc(tags: Tags) -> dict[str, list[str]]:
    """Return the IPTC values of all places by tag name; TIFF files have up to two places."""
    merged: dict[str, list[str]] = {}
    for name, texts in tags.items():
        group, _, tag = name.partition(":")
        if group.startswith("IPTC") and tag != "IPTC":
            values = merged.setdefault(f"IPTC:{tag}", [])
            values += [text for text in texts if text not in values]
    return merged


def _find_rewritten_iptc(iptc: Tags, is_new: bool) -> list[tuple[str, str]]:
    """Return the IPTC values that must be written again when the encoding is set to UTF-8.

    Args:
        iptc: The present values.
        is_new: Whether they are written into a new place, which needs all of them.

    Raises:
        OutputError: The present encoding is unknown.
    """
    encoding = _text(iptc, _ENCODING)
    others = {name: texts for name, texts in iptc.items() if name not in (_IPTC, _ENCODING)}
    foreign = {name for name, texts in others.items() if not "".join(texts).isascii()}
    text = "".join(text for name in foreign for text in others[name])
    if (foreign and encoding not in ("", "UTF8", *_LATIN_MARKERS)) or _UNKNOWN.search(text):
        raise OutputError(f"its IPTC text has an unknown encoding ({encoding or 'not stated'}).")
    chosen = others if is_new else () if encoding == "UTF8" else foreign
    return [(name, text) for name in chosen for text in others[name]]


def _is_digest_valid(tags: Tags) -> bool:
    """Return whether the IPTC digest fits one of the IPTC blocks; the one in TIFF may be padded."""
    blocks = [tags[name][0] for name in (_IPTC_BLOCK, "IPTC2:IPTC") if name in tags]
    digests = [
        hashlib.md5(block.encode("cp1252", "surrogateescape"), usedforsecurity=False).hexdigest()
        for block in blocks
    ]
    return _text(tags, _DIGEST) in digests
