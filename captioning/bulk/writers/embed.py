"""Captions as the description inside image files, written by exiftool.

Which tags change is decided in :mod:`captioning.bulk.writers.caption_tags`.
"""

import os
import re
import stat
from dataclasses import replace
from pathlib import Path

from captioning.bulk.writers.base import CaptionRow
from captioning.bulk.writers.caption_tags import (
    READ_OPTIONS,
    TagChanges,
    Tags,
    check_changes,
    find_captions,
    plan_changes,
    write_name,
)
from captioning.bulk.writers.exiftool_process import ExifTool
from captioning.bulk.writers.original_files import OriginalFile
from captioning.bulk.writers.sidecars import CaptionFileWriter
from captioning.bulk.writers.xmp import clean_caption
from captioning.errors import OutputError
from captioning.files import replace_atomic

# exiftool 12.57 reports this error for valid PNG files whose EXIF is a "Raw profile" text.
_FALSE_ALARM = "[minor] IFD0 pointer references previous IFD0 directory"
# Tags that a new file need not have: names and offsets of files, merged packets and languages.
_REPLACEABLE = re.compile(
    r"(System|ExifTool|Composite|XMP-xmpNote):|PNG:Description-|IFD0:XPComment|"
    r".*:(Current)?IPTCDigest"
)
_ADVICE = "Write an .xmp file instead: --format xmp."
_OTHER_OUTPUT = "Use another -o, or leave it out to change the image itself."
_WEBP_ADVICE = "Install exiftool 13 or later, or write an .xmp file instead: --format xmp."


class EmbedWriter(CaptionFileWriter):
    """Captions inside the images, or inside copies of them in another folder.

    Args:
        folder: Folder of the copies; None to change the images in place.
        keep_time: Keep the modification time of images.

    Raises:
        ConfigError: exiftool is not installed.
        OutputError: The folder cannot be created.
    """

    def __init__(self, folder: Path | None, *, keep_time: bool = False) -> None:
        super().__init__(folder, "")
        self.in_place = folder is None
        self._embedder = CaptionEmbedder(keep_time=keep_time)

    def has_caption(self, image: str) -> bool:
        """Return whether an image has a description, or its copy exists."""
        if self.in_place:
            return super().has_caption(image)
        return _has_content(self._path_for(image)) and not self._is_original(image)

    def find_obstacle(self, image: str) -> str:
        """Return why an image or its copy cannot be written; often empty."""
        if self._is_original(image):
            return f"cannot write a copy of '{image}': it is in the output folder. {_OTHER_OUTPUT}"
        reason = super().find_obstacle(image)
        if reason or not self.in_place or not os.path.isfile(image):  # noqa: PTH113
            return reason
        try:
            OriginalFile(Path(image))
        except OutputError as error:
            return f"cannot write the caption into '{image}': {error} {_ADVICE}"
        return ""

    def read_captions(self, image: str) -> list[str]:
        """Return the lines of the description in a copy, or else in the image."""
        copy = self._path_for(image)
        path = copy if _has_content(copy) else Path(image)
        return (self._embedder.read_caption(path) or "").splitlines() if path.is_file() else []

    def close(self, *, keep_existing_if_longer: bool = False) -> None:
        """End exiftool."""
        self._embedder.close()

    def _path_for(self, image: str) -> Path:
        return Path(image) if self.in_place else super()._path_for(image)

    def _is_original(self, image: str) -> bool:
        """Return whether an image is in the folder of copies, at the place of its own copy."""
        if self.in_place:
            return False
        return os.path.realpath(image) == os.path.realpath(self._path_for(image))

    def _write_file(self, row: CaptionRow, path: Path) -> None:
        if self._is_original(row.image):
            raise OutputError(f"it is the image, not a copy. {_OTHER_OUTPUT}")
        self._embedder.embed(Path(row.image), path, "\n".join(row.captions))


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


class CaptionEmbedder:
    """Reads and writes captions inside images with one exiftool process.

    Args:
        keep_time: Keep the modification time of images.
        time_limit: Seconds for one step of one image.

    Raises:
        ConfigError: exiftool is not installed.
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
        return next(find_captions(self._read(path)), None)

    def embed(self, source: Path, target: Path, caption: str) -> None:
        """Write an image with a caption as its description.

        The image data and all other metadata stay. exiftool writes a new file, which is checked
        before it takes the place of ``target``.

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
            before = self._read(source)
            changes = plan_changes(before, caption)
            try:
                self._write(source, target, original, before, changes)
            except OutputError as error:
                if _FALSE_ALARM not in str(error):
                    raise
                changes = replace(changes, options=("-m", *changes.options))
                self._write(source, target, original, before, changes)
        except (OSError, ValueError) as error:
            advice = _WEBP_ADVICE if "RIFF" in str(error) else _ADVICE
            raise OutputError(
                f"cannot write the caption into '{target}': {error} {advice}"
            ) from error

    def close(self) -> None:
        """End exiftool."""
        self._exiftool.close()

    def _read(self, path: Path) -> Tags:
        return self._exiftool.read_tags(path, READ_OPTIONS)

    def _write(
        self,
        source: Path,
        target: Path,
        original: OriginalFile | None,
        before: Tags,
        changes: TagChanges,
    ) -> None:
        status = source.stat()
        modified_ns = status.st_mtime_ns if self.keep_time else None
        values = [(write_name(tag), text) for tag, text in changes.values]
        with self._exiftool.write_copy(source, values, changes.options) as copy:
            check_changes(changes, before, self._read(copy))
            self._check_other_tags(source, copy)
            if original is not None:
                original.replace(copy, modified_ns=modified_ns)
                return
            target.parent.mkdir(parents=True, exist_ok=True)
            replace_atomic(target, copy.read_bytes(), mode=stat.S_IMODE(status.st_mode))
            if modified_ns is not None:
                os.utime(target, ns=(modified_ns, modified_ns))

    def _check_other_tags(self, source: Path, copy: Path) -> None:
        """Check that a new file has all tags of the old one.

        Raises:
            OutputError: Tags are missing.
        """
        missing = self._exiftool.find_lost_tags(source, copy)
        if lost := sorted(name for name in missing if not _REPLACEABLE.match(name)):
            raise OutputError(f"exiftool would lose {', '.join(lost[:3])}.")
