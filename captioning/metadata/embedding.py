"""A caption as the description of a photo: in the file, in a copy of it, or beside it."""

import stat
from pathlib import Path
from types import ModuleType

from captioning.errors import OutputError
from captioning.files import is_special_file, replace_atomic, resolve_link
from captioning.metadata import iptc, jpeg, png, tiff, webp, xmp
from captioning.metadata.blocks import Blocks

_TIFF_SUFFIXES = (".tif", ".tiff")  # raw photos, too, begin like a TIFF, and those are left alone
_ADVICE = "Write the caption into an .xmp sidecar beside it instead."
_PLAIN_MODE = 0o644


def embed_caption(source: Path, target: Path, caption: str) -> None:
    """Write a copy of a photo whose description is a caption; both may be the same file.

    The description is XMP's ``dc:description``, EXIF's ``ImageDescription``, in JPEG and TIFF
    IPTC's ``Caption-Abstract``, in PNG the text chunk ``Description``. Control characters of the
    caption are left out. The pixels' bytes and all other metadata stay. The file is there whole
    or not at all, with the permissions of the one it replaces, else of the source; its time of
    change is now. Of a link the target is replaced; a hard link becomes a file of its own.

    Args:
        source: A JPEG, PNG, WebP or TIFF.
        target: Its folder is made if need be.
        caption: The text; its line breaks are kept.

    Raises:
        OutputError: The format holds no description that is known here, the photo or its metadata
            is damaged, or the target cannot be written; both files are as they were.
    """
    caption = xmp.writable_caption(caption)
    data = _read(source)
    format_ = _format_of(source, data)
    if format_ is None:
        raise OutputError(f"{source} is no JPEG, PNG, WebP or TIFF. {_ADVICE}")
    try:
        described = _described(format_, data, caption)
    except OutputError as error:
        raise OutputError(f"{source} cannot hold the caption. {error} {_ADVICE}") from error
    _replace(target, described, like=source)


def write_xmp_sidecar(path: Path, caption: str) -> None:
    """Write a caption as ``dc:description`` into an .xmp file, all else that is in it kept.

    Raises:
        OutputError: The file there is no sound XMP, or cannot be written; it is as it was.
    """
    caption = xmp.writable_caption(caption)
    old = _read(path, absent=xmp.EMPTY)
    try:
        packet = xmp.with_description(old, caption)
        _check(xmp.read_description(packet), caption)
    except OutputError as error:
        raise OutputError(f"{path} cannot be changed. {error} Mend it or move it away.") from error
    _replace(path, packet, like=None)


def read_caption(path: Path) -> str | None:
    """Return the description that a photo or an .xmp file has: of XMP, else IPTC, EXIF, PNG's text.

    Blank ones count as none, and so do the stock texts that cameras write into EXIF. A photo of a
    format that is not known here has none.

    Raises:
        OutputError: The file or its metadata is damaged.
    """
    data = _read(path)
    try:
        if path.suffix.lower() == ".xmp":
            return xmp.read_description(data)
        format_ = _format_of(path, data)
        return None if format_ is None else _first_caption(format_.read_blocks(data))
    except OutputError as error:
        raise OutputError(f"The description of {path} cannot be read. {error}") from error


def _read(path: Path, *, absent: bytes | None = None) -> bytes:
    """Return what a file holds; ``absent``, if given, where there is no file."""
    try:
        if path.is_dir() or is_special_file(path):
            raise OutputError(f"{path} is a folder or a device. Give a file.")
        return path.read_bytes()
    except OutputError:
        raise
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError) and absent is not None:
            return absent
        raise OutputError(
            f"{path} cannot be read ({error}). Check path and permissions."
        ) from error


def _format_of(path: Path, data: bytes) -> ModuleType | None:
    """Return the module that knows a file's format, told by its first bytes."""
    if data.startswith(jpeg.SIGNATURE):
        return jpeg
    if data.startswith(png.SIGNATURE):
        return png
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return webp
    if data.startswith((b"II*\0", b"MM\0*")) and path.suffix.lower() in _TIFF_SUFFIXES:
        return tiff
    return None


def _first_caption(blocks: Blocks) -> str | None:
    found = blocks.xmp and xmp.read_description(blocks.xmp)
    found = found or (blocks.iptc and iptc.read_caption(blocks.iptc))
    found = found or (blocks.exif and tiff.read_description(blocks.exif))
    return found or blocks.text or None


def _described(format_: ModuleType, data: bytes, caption: str) -> bytes:
    """Return the bytes of a photo with the caption in all its descriptions, read back once."""
    old: Blocks = format_.read_blocks(data)
    new = Blocks(
        xmp=xmp.with_description(old.xmp, caption),
        iptc=iptc.with_caption(old.iptc, caption),
        exif=tiff.with_description(old.exif, caption),
        text=caption,
    )
    described: bytes = format_.write_blocks(data, new)
    found: Blocks = format_.read_blocks(described)
    _check(found.xmp and xmp.read_description(found.xmp), caption)
    return described


def _check(found: object, caption: str) -> None:
    if found != caption:
        raise OutputError(f"Its metadata is so unusual that {found!r} would be read from it.")


def _replace(path: Path, content: bytes, *, like: Path | None) -> None:
    """Write a file whole or not at all, with the permissions of the old one, or else like another.

    Raises:
        OutputError: It cannot be written; an older file of that name is as it was.
    """
    try:
        path = resolve_link(path)
        if path.is_dir() or is_special_file(path):
            raise OutputError(f"{path} is a folder or a device. Name a file to write to.")
        model = path if path.exists() else like
        mode = _PLAIN_MODE if model is None else stat.S_IMODE(model.stat().st_mode)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_atomic(path, content, mode=mode)
    except OutputError:
        raise
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be written ({error}). Choose another place.") from error
