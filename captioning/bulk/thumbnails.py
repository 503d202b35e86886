"""Thumbnails for HTML pages: files in a folder next to the page, or inside the page."""

import base64
import hashlib
import os
from pathlib import Path
from urllib.parse import quote

from captioning.errors import OutputError
from captioning.files import replace_atomic

THUMBNAIL_SIZE = 320
"""Longest side of a thumbnail, in pixels."""


class ThumbnailFolder:
    """Thumbnails of a page: ``page_files/`` next to ``page.html``.

    Images are named by their paths relative to the page.

    Args:
        page: Path of the page; None if it goes to standard output and holds its thumbnails itself.
    """

    def __init__(self, page: Path | None) -> None:
        self.folder = None if page is None else thumbnail_folder(page)

    def has(self, image: str) -> bool:
        """Return whether the thumbnail of an image exists and is not empty, or needs no file."""
        if self.folder is None:
            return True
        path = self._path_of(image)
        return path.is_file() and path.stat().st_size > 0

    def save(self, image: str, thumbnail: bytes) -> None:
        """Store the thumbnail of an image, a JPEG file, next to the page.

        Raises:
            OutputError: The file cannot be written.
        """
        if self.folder is None:
            return
        path = self._path_of(image)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_atomic(path, thumbnail, sync=False, temporary=path.with_suffix(".part"))
        except OSError as error:
            reason = f"cannot write the thumbnail '{path}': {error}."
            raise OutputError(f"{reason} Free some space, or use another -o.") from error

    def url_of(self, image: str, thumbnail: bytes) -> str:
        """Return the URL of an image's thumbnail, relative to the page or ``data:``."""
        if self.folder is None:
            return f"data:image/jpeg;base64,{base64.b64encode(thumbnail).decode('ascii')}"
        return quote(self._path_of(image).relative_to(self.folder.parent).as_posix())

    def _path_of(self, image: str) -> Path:
        assert self.folder is not None
        digest = hashlib.sha256(os.fsencode(image)).hexdigest()[:20]
        return self.folder / digest[:2] / f"{digest}.jpg"


def thumbnail_folder(page: Path) -> Path:
    """Return the folder of a page's thumbnails."""
    return page.with_name(f"{page.stem}_files")
