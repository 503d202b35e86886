"""Presence and content of image files."""

import os


def is_present(path: str) -> bool:
    """Return whether a path is a file, a broken link included, or leads into an archive file."""
    try:
        os.lstat(path)
    except NotADirectoryError:  # a member of an archive
        return True
    except (OSError, ValueError):
        return False
    return True
