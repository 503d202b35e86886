"""Content of images and outputs: files are recognized by their bytes, not by their times.

Copying, synchronizing or checking out a file changes its times, and a program can restore them
after a change. A file is therefore the same if its digest is. Files whose size and times are
unchanged, the time of the last status change included, are not read again.
"""

import hashlib
import os
from functools import cached_property
from pathlib import Path

from captioning.images.file_digest import digest_file, stat_file
from captioning.images.image_ref import ImageRef


class ImageContent:
    """What identifies the content of an image.

    Attributes:
        size: Size in bytes; -1 for URLs and missing files.
        stamp: Size and times of an image file; empty for other images.

    Args:
        image: The image. Its bytes are not kept.
    """

    def __init__(self, image: ImageRef) -> None:
        self._name = image.name
        self.size, self.stamp = -1, ""
        if isinstance(image.content, bytes):
            self.size = len(image.content)
            self.digest = hashlib.sha256(image.content).hexdigest()
        elif image.content is not None:
            self.digest = ""
        else:
            self.size, self.stamp = stat_file(image.name)

    @cached_property
    def digest(self) -> str | None:
        """SHA-256 of the content; empty for URLs, None if a file is unreadable or is changing."""
        return digest_file(self._name, self.stamp)

    def set_digest(self, digest: str | None) -> None:
        """Set the digest, so that the file is not read again: an image reader has computed it."""
        self.digest = digest

    @property
    def key(self) -> tuple[int, str, str | None]:
        """Size, stamp and digest."""
        return self.size, self.stamp, self.digest


def is_present(path: str) -> bool:
    """Return whether a path is a file, a broken link included, or leads into an archive file."""
    try:
        os.lstat(path)
    except NotADirectoryError:  # a member of an archive
        return True
    except (OSError, ValueError):
        return False
    return True


def digest_output(path: Path) -> str:
    """Return a digest of an output; it ignores the kind of line breaks, which git converts."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for line in file:
            digest.update(line.replace(b"\r\n", b"\n"))
    return digest.hexdigest()
