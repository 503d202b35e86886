"""Atomic writes, and checks of files."""

import gzip
import hashlib
import os
import secrets
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from captioning.errors import CaptioningError, OutputError
from captioning.messages import explain_error

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
_REQUIRED_ATTRIBUTES = ("user.", "system.posix_acl_")
_CONTENT_HASHES = ("security.ima", "security.evm")  # they would not fit the new content
_PROBE_BYTES = 1 << 12  # enough to need space on the disk


def resolve_link(path: Path) -> Path:
    """Return the target of a symbolic link, and any other path unchanged.

    A file is replaced by renaming a new one over it, which must not replace the link itself.
    """
    return Path(os.path.realpath(path)) if os.path.islink(path) else path  # noqa: PTH114  (does not raise)


def is_special_file(path: Path) -> bool:
    """Return whether ``path`` is a pipe, a terminal or another device.

    Such a file cannot be replaced, only written to.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def find_write_obstacle(folder: Path) -> str:
    """Return why no file can be created in a folder; empty if one can.

    A small file is written and removed: permissions do not show a full disk, a quota or a
    read-only file system. If the folder does not exist, its nearest parent is tried.
    """
    try:
        folder = find_existing(folder)
        with tempfile.TemporaryFile(dir=folder, prefix=".captioning-") as file:
            file.write(bytes(_PROBE_BYTES))
    except NotADirectoryError:
        return f"'{folder}' is not a folder"
    except OSError as error:
        return explain_error(error)
    return ""


def find_existing(path: Path) -> Path:
    """Return a path or its nearest parent that exists."""
    while path != path.parent:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()
            break
        path = path.parent
    return path


def check_writable(path: Path) -> None:
    """Check that an output file can be written. Call this before long work.

    Raises:
        OutputError: The path is a folder, or the process cannot write there.
    """
    try:
        path = resolve_link(path)
        if path.is_dir():
            reason = "it is a folder"
        elif find_existing(path) == path and not os.access(path, os.W_OK):
            reason = "it is write-protected"
        else:
            reason = "" if is_special_file(path) else find_write_obstacle(path.parent)
    except (OSError, ValueError) as error:  # for example a name that is too long
        reason = explain_error(error)
    if reason:
        raise OutputError(f"cannot write '{path}': {reason}. Use another output path.")


def write_atomic(path: Path, text: str) -> None:
    """Write a text file as UTF-8. Readers see the old content or the new, never a part.

    Creates the folder if it does not exist. Writes to special files directly.

    Raises:
        OSError: The file cannot be written. An existing file is unchanged.
    """
    if is_special_file(path):
        path.write_text(text, encoding="utf-8")
        return
    path = resolve_link(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_atomic(path, text.encode("utf-8"))


def replace_atomic(
    path: Path,
    content: bytes,
    *,
    mode: int | None = None,
    sync: bool = True,
    temporary: Path | None = None,
) -> None:
    """Create or replace a file by renaming a temporary file. A symbolic link is replaced too.

    The new file gets the attributes of the old one, as far as permitted.

    Args:
        path: The file. Its folder must exist.
        content: The new content.
        mode: Permission bits of a new file. None keeps the default of the process.
        sync: Flush the content to disk before the rename, so that it survives a power failure.
        temporary: Name of the temporary file, which no other process may use. A file that a
            killed process left under this name is overwritten. None picks a random name.

    Raises:
        OSError: The file cannot be written. An existing file is unchanged.
    """
    # The random name does not extend the file's name, which may already have maximum length.
    temporary = temporary or path.with_name(f".captioning-{secrets.token_hex(8)}")
    replaces = path.is_file() and not path.is_symlink()
    try:
        # Private until it has the owner and the permissions of the old file.
        handle = os.open(temporary, _NEW_FILE, 0o600 if replaces else 0o666)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        if replaces:
            copy_attributes(path, temporary)
        elif mode is not None:
            temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def copy_attributes(source: Path, target: Path) -> list[str]:
    """Give a file everything but content and times of the file that it will replace.

    Owner, permissions, access lists, flags and extended attributes are copied if permitted.

    Returns:
        What could not be copied: ``"owner (1000:1000)"``, ``"extended attribute 'a'"``.
    """
    old, new, lost = source.stat(), target.stat(), []
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        try:
            os.chown(target, old.st_uid, old.st_gid)
        except OSError:
            lost.append(f"owner ({old.st_uid}:{old.st_gid})")
            with suppress(OSError):
                os.chown(target, -1, old.st_gid)
    try:
        shutil.copystat(source, target)
        os.utime(target)
    except OSError as error:
        lost.append(f"permissions ({explain_error(error)})")
    for name in _CONTENT_HASHES if sys.platform == "linux" else ():
        with suppress(OSError):
            os.removexattr(target, name)
    before, after = _read_attributes(source), _read_attributes(target)
    different = (name for name, value in before.items() if after.get(name) != value)
    return lost + [f"extended attribute {name!r}" for name in different]


def _read_attributes(path: Path) -> dict[str, bytes]:
    """Return the extended attributes that users and access lists need."""
    if sys.platform != "linux":
        return {}
    with suppress(OSError):  # a file system without extended attributes
        names = [name for name in os.listxattr(path) if name.startswith(_REQUIRED_ATTRIBUTES)]
        return {name: os.getxattr(path, name) for name in names}
    return {}


def read_text(path: Path, *, error: type[CaptioningError]) -> str:
    """Read a UTF-8 file, with or without a byte order mark.

    Args:
        path: A text file, compressed if its name ends in ``.gz``.
        error: Exception class of all errors.

    Raises:
        CaptioningError: The file is missing, unreadable or not UTF-8. The class is ``error``.
    """
    return "\n".join(read_lines(path, error=error))


def read_lines(path: Path, *, error: type[CaptioningError]) -> Iterator[str]:
    """Yield the lines of a UTF-8 file without their line ends. Memory holds one line at a time.

    Arguments and errors are those of :func:`read_text`. After a final line end, the last line is
    empty.
    """
    with _open_bytes(path, error) as file:
        end = b"\n"
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as reason:
                raise error(explain_encoding(f"{path}, line {number}", reason)) from reason
            end = line[-1:]
            yield from text.removesuffix("\n").removesuffix("\r").split("\r")
        if end in (b"\n", b"\r"):
            yield ""


def explain_encoding(source: str, error: UnicodeDecodeError) -> str:
    """Return the message for a file that is not UTF-8."""
    return (
        f"{source}: not UTF-8 text ({error.reason}). Convert the file, for example with "
        "iconv -f latin1 -t utf-8."
    )


def read_bytes(path: Path, *, error: type[CaptioningError]) -> bytes:
    """Read a file. Arguments and errors are those of :func:`read_text`."""
    with _open_bytes(path, error) as file:
        return file.read()


@contextmanager
def _open_bytes(path: Path, error: type[CaptioningError]) -> Iterator[IO[bytes]]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file  # type: ignore[misc]  # the two have no common type
    except (OSError, EOFError, zlib.error) as reason:
        text = "no such file" if isinstance(reason, FileNotFoundError) else explain_error(reason)
        raise error(f"cannot read '{path}': {text}. Check the path.") from reason


def find_copies(paths: Sequence[Path], originals: Sequence[Path]) -> list[Path]:
    """Return the files of ``paths`` that have the same content as one of ``originals``.

    Unreadable files match nothing.
    """
    sizes = {size for path in paths if (size := _size(path)) is not None}
    digests = {_digest(path) for path in originals if _size(path) in sizes} - {None}
    return [path for path in paths if _digest(path) in digests] if digests else []


def _size(path: Path) -> int | None:
    with suppress(OSError):
        return path.stat().st_size
    return None


def _digest(path: Path) -> bytes | None:
    with suppress(OSError), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
    return None
