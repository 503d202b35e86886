"""Files that are there whole or not at all."""

import hashlib
import os
import secrets
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from captioning.errors import OutputError


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


def check_writable(path: Path) -> None:
    """Make the folder of a file that is to be written, and refuse what can be no file.

    Raises:
        OutputError: There can be no such file. To be told before the work, and not after it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise PermissionError("that is not allowed here")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error}. Give another output.") from error


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
    replace_whole(path, text.encode("utf-8"), mode=0o644)


def replace_whole(
    path: Path,
    content: bytes,
    *,
    mode: int | None = None,
    sync: bool = True,
    through: Path | None = None,
) -> None:
    """Put a new file in the place of ``path``, also where that is a link.

    Args:
        path: Its folder is there.
        content: What is in the file.
        mode: Its permissions; None for those that new files of this process have.
        sync: Whether it is on the disk before it has its name, so that it outlives a power cut.
        through: What it is called until it is whole, where nobody else writes it: what a kill
            leaves of it is then replaced the next time. None for a name that no other has.

    Raises:
        OSError: It cannot be written; an older file of that name is as it was.
    """
    # A name of its own length: the path's may be as long as names can be.
    temporary = through or path.with_name(f".captioning-{secrets.token_hex(8)}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        if mode is not None:
            temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def copies(paths: Sequence[Path], others: Sequence[Path]) -> list[Path]:
    """Return those of ``paths`` whose content is that of one of ``others``, wherever it lies.

    Files that cannot be read are like no other.
    """
    sizes = {size for path in paths if (size := _size(path)) is not None}
    known = {_digest(path) for path in others if _size(path) in sizes} - {None}
    return [path for path in paths if _digest(path) in known] if known else []


def _size(path: Path) -> int | None:
    with suppress(OSError):
        return path.stat().st_size
    return None


def _digest(path: Path) -> bytes | None:
    with suppress(OSError), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
    return None
