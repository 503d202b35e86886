"""Names of image files and of system folders, and the order in which names are listed."""

import os
import re

from captioning.images.image_ref import IMAGE_EXTENSIONS, ImageRef

_ARCHIVE_EXTENSIONS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

# Folders with copies, thumbnails and deleted images, in lower case. Hidden folders need no entry.
_SYSTEM_FOLDERS = frozenset(
    [
        *("@eadir", "#recycle", "#snapshot", "@sharebin", "@sharesnap", "@tmp"),  # Synology
        *("@cloudstation", "@synologydrive"),  # versions of files, also Synology
        *(
            "@recycle",
            "@recently-snapshot",
            "@__thumb",
            "@transcode",
            "network recycle bin 1",
        ),  # QNAP
        *("~snapshot", "trashbox"),  # NetApp, Buffalo
        *("$recycle.bin", "recycler", "recycled", "system volume information"),  # Windows
        *("__macosx", "network trash folder", "temporary items"),  # macOS
        "lost+found",  # Linux
        *("thumbs", "ipod photo cache", "[originals]"),  # Immich, iTunes, ACDSee
        *("files_trashbin", "files_versions"),  # Nextcloud
        *("_vti_cnf", "node_modules", "__pycache__"),
    ]
)
# Photos, iPhoto, Aperture and Capture One keep originals, and copies made from them.
_PHOTO_LIBRARIES = (".photoslibrary", ".photolibrary", ".aplibrary", ".cocatalog")
_ORIGINALS = ("originals", "masters")


def is_image_name(name: str) -> bool:
    """Return whether a base name has an image extension and is not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS  # noqa: PTH122


def is_archive(name: str) -> bool:
    """Return whether a file name has the extension of a tar archive."""
    return name.lower().endswith(_ARCHIVE_EXTENSIONS)


def is_system_folder(name: str, parent: str = "") -> bool:
    """Return whether a folder is hidden, or made by an operating system, a NAS or a photo tool.

    Args:
        name: Name of the folder.
        parent: Name of the folder that contains it.
    """
    name = name.lower()
    if parent.lower().endswith(_PHOTO_LIBRARIES):
        return name not in _ORIGINALS
    is_hidden = name.startswith(".") and name not in (".", "..")
    is_cache = name.endswith(".lrdata") or name.startswith("appdata_")  # Lightroom, Nextcloud
    return is_hidden or is_cache or name in _SYSTEM_FOLDERS


def natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Return a sort key that puts ``photo2`` before ``photo10``; different names differ in it."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts], name


def report_unmatched(pattern: str) -> ImageRef:
    """Return the item that reports a glob pattern without a match."""
    return ImageRef(pattern, error=f"no file matches '{pattern}'. Check the pattern.")
