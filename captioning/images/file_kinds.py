"""Kinds of files that are not readable as images, and what to do with each."""

import codecs
import importlib
import importlib.util
import re
import shlex
from contextlib import suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FileKind:
    """A kind of file that is not readable as an image, and what to do with it."""

    name: str
    """Completes the sentence "file is ..."."""
    advice: str
    pattern: bytes
    """Regular expression of its first bytes; ``.`` is any byte."""
    endings: str = ""
    """File extensions of this kind, without dots."""
    plugin: str = ""
    """Package with which Pillow can read it."""

    @property
    def explanation(self) -> str:
        """What it is and what to do, such as "is a video. Export a frame as an image."."""
        return f"is {self.name}. {self.advice.format(self.plugin)}"


def _damaged(name: str, pattern: bytes) -> FileKind:
    return FileKind(f"a damaged or incomplete {name}", "Download it again.", pattern)


_PLUGIN_MODULES = {"pillow-heif": "pillow_heif", "pillow-jxl-plugin": "pillow_jxl"}
_INSTALL = "Install its decoder: pip install {}."
_CONVERT = "Convert it to PNG or JPEG."
CAMERA_RAW = FileKind(
    "a camera raw image",
    "Export it as JPEG.",
    rb"II\*\0....CR|II\x1a\0\0\0HEAPCCDR|IIU\0|II\*\0....IIII|IIR[OS]|MMOR|FUJIFILMCCD-RAW"
    rb"|FOVb|\0MRM|....ftypcrx",
    "3fr arw cr2 cr3 crw dcr dng erf fff gpr iiq k25 kdc mef mos mrw nef nrw orf pef raf raw rw2 "
    "rwl sr2 srf srw x3f",
)
# The first pattern that matches decides.
KINDS = (
    _damaged("JPEG", rb"\xff\xd8"),
    _damaged("PNG", rb"\x89PNG"),
    _damaged("GIF", rb"GIF8"),
    _damaged("WebP", rb"RIFF....WEBP"),
    _damaged("JPEG 2000", rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    _damaged("icon", rb"\0\0[\1\2]\0|icns"),
    _damaged("PPM", rb"P[1-7]\s"),
    FileKind("a JPEG XL image", _INSTALL, rb"\xff\x0a|\0\0\0\x0cJXL ", "jxl", "pillow-jxl-plugin"),
    FileKind(
        "a HEIC image",
        _INSTALL,
        rb"....ftyp(hei[cmsx]|hev[cx]|m[is]f1)",
        "heic heif hif",
        "pillow-heif",
    ),
    FileKind(
        "a damaged AVIF, or Pillow is too old",
        "Update it: pip install -U pillow.",
        rb"....ftypavi[fs]",
    ),
    CAMERA_RAW,
    FileKind(
        "a damaged TIFF, a camera raw image, or a TIFF of a kind that Pillow does not read",
        _CONVERT,
        rb"II[*+]\0|MM\0[*+]",
    ),
    FileKind(
        "the macOS metadata of another file (AppleDouble), not an image",
        "Give the file whose name does not start with '._'.",
        rb"\0\x05\x16[\0\x07]",
    ),
    FileKind(
        "a Git LFS pointer, not the image itself",
        "Run: git lfs pull.",
        rb"version https://(git-lfs|hawser)",
    ),
    FileKind(
        "a git-annex pointer, not the image itself", "Run: git annex get.", rb"/annex/objects/"
    ),
    FileKind(
        "an iCloud placeholder or a property list, not an image",
        "Download the image in Finder first.",
        rb"bplist00",
        "icloud",
    ),
    FileKind(
        "a web page, perhaps of a failed download",
        "Download it again.",
        rb"(?i)(\xef\xbb\xbf)?\s*<!doctype html|[^\0]*<html",
    ),
    FileKind("an SVG drawing", _CONVERT, rb"[^\0]*<svg[\s>:]", "svg svgz"),
    FileKind("a PDF document", "Export its pages as images.", rb"\s*%PDF", "pdf ai"),
    FileKind(
        "a project of an image editor",
        "Export it as PNG or JPEG.",
        rb"8BPS|gimp xcf|PK\x03\x04.{26}mimetypeapplication/x-krita|Paint Shop|\x06\x06\xed\xf5",
        "psd psb xcf kra clip procreate afphoto cdr indd psp pspimage eps",
    ),
    FileKind(
        "a scientific or HDR image",
        _CONVERT,
        rb"v/1\x01|#\?RADIANCE|SIMPLE  =|.{128}DICM|\x89HDF|SDPX|XPDS|\x93NUMPY",
        "exr hdr fits fit dcm dpx h5 npy",
    ),
    FileKind(
        "an audio file",
        "Leave it out.",
        rb"ID3|\xff[\xf2\xf3\xfb]|fLaC|OggS|RIFF....WAVE|FORM....AIF|....ftypM4[AB]",
        "mp3 wav m4a flac ogg aif aiff aac wma",
    ),
    FileKind(
        "a video",
        "Export a frame as an image.",
        rb"\x1aE\xdf\xa3|[\0-\x1f]...(ftyp|moov|mdat|wide|free|skip|pnot)|RIFF....AVI "
        rb"|FLV\x01|\0\0\x01[\xb3\xba]|0&\xb2u|(....)?G@\0",
        "mp4 mov avi mkv webm m4v mts m2ts 3gp wmv mpg mpeg flv insv lrv",
    ),
    FileKind(
        "a zip archive or an office document", "Unpack it.", rb"PK\x03\x04", "zip cbz docx pptx"
    ),
    FileKind(
        "an archive",
        "Unpack it.",
        rb"\x1f\x8b|BZh\d|7z\xbc\xaf|Rar!|\xfd7zXZ|\x28\xb5\x2f\xfd|.{257}ustar",
        "rar 7z gz zst cbr iso",
    ),
    FileKind("an archive", "Name it in the command to caption its images.", rb"(?!)", "tar tgz"),
    FileKind("an office document or a thumbnail database", "Leave it out.", rb"\xd0\xcf\x11\xe0"),
    FileKind("a Windows shortcut, not the image itself", "Give its target.", rb"L\0\0\0\x01\x14"),
    FileKind("an unfinished download", "Download it again.", rb"(?!)", "crdownload part download"),
    _damaged("BMP", rb"BM"),
)


def find_kind(head: bytes, name: str = "") -> FileKind | None:
    """Return the kind of a file that Pillow does not read; None if it is not known.

    Args:
        head: The first bytes of the file.
        name: Name of the file. Many cameras write raw images whose first bytes are those of a TIFF.
    """
    for kind in KINDS:
        if re.match(kind.pattern, head, re.DOTALL):
            is_raw = head[:2] in (b"II", b"MM") and kind_of_ending(name) == CAMERA_RAW
            return CAMERA_RAW if is_raw else kind
    return None


def kind_of_ending(name: str) -> FileKind | None:
    """Return the kind of file that an extension stands for; None if it is not known.

    Args:
        name: A file name with extension, or an extension that starts with a dot.
    """
    ending = name.rpartition(".")[2].lower()
    return next((kind for kind in KINDS if ending in kind.endings.split()), None)


def is_raw_preview(head: bytes, image: Any) -> bool:
    """Return whether a TIFF opened by Pillow is only the small preview of a camera raw image.

    Args:
        head: The first bytes of the file.
        image: The opened TIFF. The first image of a camera raw file is marked as a reduced version
            and has others below it (TIFF 6.0, page 36; TIFF/EP).
    """
    is_reduced = image.tag_v2.get(254) == 1 and 330 in image.tag_v2
    return is_reduced or find_kind(head) == CAMERA_RAW


def describe_contents(head: bytes, name: str = "") -> str:
    """Describe a file that Pillow cannot open, and what to do.

    Args:
        head: The first bytes of the file.
        name: Name of the file.
    """
    if not head:
        return "file is empty (0 bytes). Download it again."
    if not head.strip(b"\0"):
        return "file starts with zeros only, as after an interrupted copy. Download it again."
    if kind := find_kind(head, name):
        return f"file {kind.explanation}"
    if text := _decode_text(head):
        return _describe_text(text, name)
    return f"file has an unknown format (it starts with {head[:12]!r}). {_CONVERT}"


def _describe_text(text: str, name: str) -> str:
    if re.match(r"[{\[<]", text):
        content = f"{'XML' if text[0] == '<' else 'JSON'} ({text[:80]!r})"
        return f"file contains {content}, not an image. Check the path, or download it again."
    return (
        f"file contains text ({text[:20]!r}). To caption a list of image paths: captioning caption "
        f"- < {shlex.quote(name) if name else 'FILE'}"
    )


def _decode_text(head: bytes) -> str:
    """Return the text without blanks around it; empty if the bytes are not plain text."""
    is_utf16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ["utf-16"] if is_utf16 else ["utf-8-sig", "cp1252"]:
        with suppress(UnicodeDecodeError):
            # A long head may end inside a character.
            text = head.decode(encoding, "strict" if len(head) < 256 else "ignore").strip()
            if all(character.isprintable() or character.isspace() for character in text):
                return text
    return ""


def register_decoder(head: bytes) -> bool:
    """Register the plugin that lets Pillow read a file; return whether that was possible.

    Args:
        head: The first bytes of the file.
    """
    kind = find_kind(head)
    module_name = _PLUGIN_MODULES.get(kind.plugin) if kind else None
    if module_name is None or importlib.util.find_spec(module_name) is None:
        return False
    module = importlib.import_module(module_name)  # pillow_jxl registers itself on import
    getattr(module, "register_heif_opener", lambda: None)()
    return True
