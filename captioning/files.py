"""Files that are there whole or not at all."""

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path


def target_of(path: Path) -> Path:
    """Return the file that a link leads to, so that the file is replaced and not the link."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def is_special(path: Path) -> bool:
    """Return whether a pipe, a terminal or another device has this name: it is written into."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def write_whole(path: Path, text: str) -> None:
    """Write a file so that whoever opens it finds the old content or the new, never a part.

    Args:
        path: Its folder is made if need be.
        text: Written as UTF-8.

    Raises:
        OSError: It cannot be written; an older file of that name is as it was.
    """
    if is_special(path):
        path.write_text(text, encoding="utf-8")
        return
    path = target_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".captioning-", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
