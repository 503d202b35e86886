"""Captions as the description inside image files, written by exiftool.

A caption is written to XMP ``dc:description``, and, where the format has them, to EXIF
``ImageDescription``, IPTC ``Caption-Abstract`` and the PNG text chunk ``Description``. Standards:
XMP specification part 3; EXIF 2.32; IPTC-NAA IIM 4.2; guidelines of the Metadata Working Group 2.0.
"""

import os
import stat
from pathlib import Path

from captioning.bulk.writers.base import CaptionRow
from captioning.bulk.writers.exiftool_process import ExifTool
from captioning.bulk.writers.machine_text import is_machine_text
from captioning.bulk.writers.original_files import OriginalFile
from captioning.bulk.writers.sidecars import CaptionFileWriter
from captioning.bulk.writers.xmp import clean_caption
from captioning.errors import OutputError
from captioning.files import replace_atomic

_XMP = "XMP-dc:Description"
_IPTC = "IPTC:Caption-Abstract"
_EXIF = "IFD0:ImageDescription"
_PNG = "PNG:Description"
_DIGEST, _CURRENT_DIGEST = "Photoshop:IPTCDigest", "File:CurrentIPTCDigest"
_DEVICES = ("IFD0:Make", "IFD0:Model", "IFD0:Software")
_BINARY_IPTC = ("--IPTC:ObjectPreviewData", "--IPTC:RasterizedCaption")
_READ = (
    *(f"-{_XMP}*", "-IPTC:all", *_BINARY_IPTC, f"-{_EXIF}", f"-{_PNG}"),
    *(f"-{name}" for name in _DEVICES),
    *(f"-{_DIGEST}", f"-{_CURRENT_DIGEST}", "-File:FileType"),
)
_MAX_IPTC_BYTES = 2000
_IPTC_TYPES = ("JPEG", "MPO", "TIFF")
_PNG_TYPES = ("PNG", "APNG")
_ENCODING = "IPTC:CodedCharacterSet"
_LATIN_MARKERS = ("ESC . A", "ESC - A")  # ISO 8859-1, as exiftool prints them
# exiftool 12.57 reads this error out of sound PNG files whose EXIF is a "Raw profile" text.
_FALSE_ALARM = "[minor] IFD0 pointer references previous IFD0 directory"
_ADVICE = "Write an .xmp file instead: --format xmp."

_Tags = dict[str, list[str]]
"""Values by tag name, as :meth:`ExifTool.read_tags` returns them."""


class EmbedWriter(CaptionFileWriter):
    """Captions inside the images, or inside copies of them in another folder.

    Args:
        folder: Folder of the copies; None to change the images in place.
        keep_time: Keep the modification time of images.

    Raises:
        ConfigError: exiftool or PyExifTool is not installed.
        OutputError: The folder cannot be created.
    """

    def __init__(self, folder: Path | None, *, keep_time: bool = False) -> None:
        super().__init__(folder, "")
        self.in_place = folder is None
        self._embedder = CaptionEmbedder(keep_time=keep_time)

    def has_caption(self, image: str) -> bool:
        """Return whether an image has a description, or its copy exists."""
        return super().has_caption(image) if self.in_place else self._path_for(image).is_file()

    def find_obstacle(self, image: str) -> str:
        """Return why an image or its copy cannot be written; often empty."""
        reason = super().find_obstacle(image)
        if reason or not self.in_place or not os.path.isfile(image):  # noqa: PTH113
            return reason
        try:
            OriginalFile(Path(image))
        except OutputError as error:
            return f"cannot write the caption into '{image}': {error} {_ADVICE}"
        return ""

    def read_captions(self, image: str) -> list[str]:
        """Return the lines of the description in an image."""
        path = Path(image)
        return (self._embedder.read_caption(path) or "").splitlines() if path.is_file() else []

    def close(self, *, keep_longer: bool = False) -> None:
        """End exiftool."""
        self._embedder.close()

    def _path_for(self, image: str) -> Path:
        return Path(image) if self.in_place else super()._path_for(image)

    def _write_file(self, row: CaptionRow, path: Path) -> None:
        self._embedder.embed(Path(row.image), path, "\n".join(row.captions))


class CaptionEmbedder:
    """Reads and writes captions inside images with one exiftool process.

    Args:
        keep_time: Keep the modification time of images.
        time_limit: Seconds for one step of one image.

    Raises:
        ConfigError: exiftool or PyExifTool is not installed.
    """

    def __init__(self, *, keep_time: bool = False, time_limit: float = 60.0) -> None:
        self.keep_time = keep_time
        self._exiftool = ExifTool(time_limit)

    def read_caption(self, path: Path) -> str | None:
        """Return the description of an image: of XMP, else IPTC, else EXIF, else PNG text.

        Texts that cameras and programs write count as none.

        Raises:
            OutputError: The image cannot be read.
        """
        return _first_caption(self._read(path))

    def embed(self, source: Path, target: Path, caption: str) -> None:
        """Write an image with a caption as its description.

        The image data and all other metadata stay. exiftool writes a new file, whose caption is
        read back before it takes the place of ``target``.

        Args:
            source: The image.
            target: ``source``, to change it in place, or the path of a copy.
            caption: The text. Control characters are removed, line breaks stay.

        Raises:
            OutputError: The caption cannot be written. Both files are unchanged.
        """
        caption = clean_caption(caption)
        try:
            if not source.is_file():
                raise OutputError("it is not a regular file.")
            original = OriginalFile(target) if target.exists() else None
            values, options = _plan_values(self._read(source), caption)
            try:
                self._write(source, target, original, values, options)
            except OutputError as error:
                if _FALSE_ALARM not in str(error):
                    raise
                self._write(source, target, original, values, ["-m", *options])
        except (OSError, ValueError) as error:
            raise OutputError(
                f"cannot write the caption into '{target}': {error} {_ADVICE}"
            ) from error

    def close(self) -> None:
        """End exiftool."""
        self._exiftool.close()

    def _read(self, path: Path) -> _Tags:
        return self._exiftool.read_tags(path, _READ)

    def _write(
        self,
        source: Path,
        target: Path,
        original: OriginalFile | None,
        values: list[tuple[str, str]],
        options: list[str],
    ) -> None:
        status = source.stat()
        modified_ns = status.st_mtime_ns if self.keep_time else None
        with self._exiftool.write_copy(source, values, options) as copy:
            _verify(self._read(copy), values)
            if original is not None:
                original.replace(copy, modified_ns=modified_ns)
                return
            target.parent.mkdir(parents=True, exist_ok=True)
            replace_atomic(target, copy.read_bytes(), mode=stat.S_IMODE(status.st_mode))
            if modified_ns is not None:
                os.utime(target, ns=(modified_ns, modified_ns))


def _first_caption(tags: _Tags) -> str | None:
    devices = [_text(tags, name) for name in _DEVICES]
    translations = [name for name in tags if name.startswith(f"{_XMP}-")]
    for name in (_XMP, *translations, _IPTC, _EXIF, _PNG):
        text = _text(tags, name)
        if not is_machine_text(text, *devices):
            return text
    return None


def _text(tags: _Tags, name: str) -> str:
    return tags.get(name, [""])[0].strip("\0 \t\r\n")


def _plan_values(tags: _Tags, caption: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the tags to write and the options of exiftool for an image that has ``tags``."""
    values = [(f"{_XMP}-x-default", caption), (_EXIF, caption)]
    options: list[str] = []
    file_type = _text(tags, "File:FileType")
    if file_type in _PNG_TYPES:
        values.append((_PNG, caption))
    iptc = {name: texts for name, texts in tags.items() if name.startswith("IPTC:")}
    if iptc or file_type in _IPTC_TYPES:
        short = caption.encode("utf-8")[:_MAX_IPTC_BYTES].decode("utf-8", "ignore")
        values.append((_IPTC, short))
        if not iptc or not short.isascii():
            values += _iptc_as_utf8(iptc)
            options.append(f"-{_ENCODING}=UTF8")
    # Photo programs prefer IPTC over XMP if the digest is wrong, so that a wrong one stays wrong.
    if _DIGEST in tags and tags[_DIGEST] == tags.get(_CURRENT_DIGEST):
        options.append(f"-{_DIGEST}=new")
    return values, options


def _iptc_as_utf8(iptc: _Tags) -> list[tuple[str, str]]:
    """Return the IPTC values that must be rewritten before the encoding is set to UTF-8.

    Raises:
        OutputError: The present encoding is unknown.
    """
    encoding = _text(iptc, _ENCODING)
    if encoding == "UTF8":
        return []
    foreign = {
        name: texts
        for name, texts in iptc.items()
        if name not in (_IPTC, _ENCODING) and not "".join(texts).isascii()
    }
    if foreign and encoding and encoding not in _LATIN_MARKERS:
        raise OutputError(f"its IPTC text has an unknown encoding ({encoding}).")
    return [(name, text) for name, texts in foreign.items() for text in texts]


def _verify(tags: _Tags, values: list[tuple[str, str]]) -> None:
    """Check that a new file has the caption, and no other one in IPTC, EXIF or PNG text.

    Raises:
        OutputError: It has another caption, or none.
    """
    expected = {name.removesuffix("-x-default"): text for name, text in values}
    for name in (_XMP, _IPTC, _EXIF, _PNG):
        found = _text(tags, name)
        if found != expected.get(name, "").strip() and (found or name == _XMP):
            raise OutputError(f"exiftool wrote another {name} than requested: {found!r}.")
