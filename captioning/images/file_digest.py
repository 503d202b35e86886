"""Stamps and digests of files: a file has not changed if its size and times are the same."""

import hashlib
import os
import stat


def stat_file(name: str) -> tuple[int, str]:
    """Return the size of a file in bytes and its stamp; -1 and "" if it is not a regular file.

    The stamp holds the size and the times of the last change of content and of status.
    """
    try:
        status = os.stat(name)  # noqa: PTH116  (names may contain bytes that are not UTF-8)
    except (OSError, ValueError):
        return -1, ""
    if not stat.S_ISREG(status.st_mode):
        return -1, ""
    return status.st_size, f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def digest_file(name: str, stamp: str) -> str | None:
    """Return the SHA-256 of a file; None if it is unreadable or its stamp is not ``stamp``."""
    if not stamp:
        return None
    try:
        with open(name, "rb") as file:  # noqa: PTH123  (names of any bytes)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
    return digest if stat_file(name)[1] == stamp else None
