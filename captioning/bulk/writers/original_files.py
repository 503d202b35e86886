"""Replace an original file without damage: content changes, everything else about it stays."""

import os
import secrets
import shutil
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from captioning.errors import OutputError
from captioning.files import is_special_file, resolve_link
from captioning.messages import explain_error

_COPY = "Write copies into another folder: -o FOLDER."
_REQUIRED_ATTRIBUTES = ("user.", "system.posix_acl_")
_CONTENT_HASHES = ("security.ima", "security.evm")  # they would not fit the new content


class OriginalFile:
    """A file whose content is about to be replaced; a symbolic link stands for its target.

    The new content is written to a temporary file in the same folder, which gets the owner,
    permissions, access lists and extended attributes of the original and is then renamed over it.
    At every moment the name leads to the old content or the new one, also after a crash.

    Some files cannot be replaced like this without a loss: a file with several names (hard links)
    would be separated from the others, and a file of another user would change its owner. They
    are refused. Writing into the existing file would keep them, but a crash in the middle would
    leave a damaged original, and a backup that nobody knows of.

    Args:
        path: The file.

    Raises:
        OutputError: There is no such file, or it cannot be replaced without a loss.
    """

    def __init__(self, path: Path) -> None:
        self.path = resolve_link(path)
        try:
            self._status = self.path.stat()
        except (OSError, ValueError) as error:
            raise OutputError(f"{explain_error(error)}.") from error
        if is_special_file(self.path) or not stat.S_ISREG(self._status.st_mode):
            raise OutputError("it is not a regular file.")
        if self._status.st_nlink > 1:
            count = self._status.st_nlink
            raise OutputError(f"it has {count} names (hard links), which would split. {_COPY}")
        if not os.access(self.path, os.W_OK):
            raise OutputError(f"it is write-protected. {_COPY}")

    def replace(self, content: Path, *, modified_ns: int | None = None) -> None:
        """Put the content of another file in the place of this one.

        Args:
            content: The file with the new content.
            modified_ns: Modification time to set, in nanoseconds. None sets the current time.

        Raises:
            OutputError: It cannot be written, or has changed since this object was made. The file
                is unchanged.
        """
        temporary = self.path.with_name(f".captioning-{secrets.token_hex(8)}")
        try:
            self._create(temporary)
            with temporary.open("r+b") as file, content.open("rb") as source:
                file.truncate()
                shutil.copyfileobj(source, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
            self._copy_attributes(temporary)
            time_ns = time.time_ns() if modified_ns is None else modified_ns
            os.utime(temporary, ns=(time_ns, time_ns))
            self._check_unchanged()
            temporary.replace(self.path)
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(f"{explain_error(error)}.") from error
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _create(self, temporary: Path) -> None:
        if sys.platform == "darwin":  # Python cannot copy extended attributes there, cp can
            subprocess.run(["/bin/cp", "-p", self.path, temporary], check=True)
        else:  # private until its owner is set
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))

    def _copy_attributes(self, temporary: Path) -> None:
        """Copy owner, permissions, times, flags and extended attributes.

        Raises:
            OutputError: The owner, an access list or an attribute of the user cannot be kept.
        """
        created, old = temporary.stat(), self._status
        if (created.st_uid, created.st_gid) != (old.st_uid, old.st_gid):
            try:
                os.chown(temporary, old.st_uid, old.st_gid)
            except OSError as error:
                owner = f"{old.st_uid}:{old.st_gid}"
                raise OutputError(f"its owner ({owner}) cannot be kept. {_COPY}") from error
        shutil.copystat(self.path, temporary)
        if sys.platform != "linux":
            return
        for name in _CONTENT_HASHES:
            with suppress(OSError):
                os.removexattr(temporary, name)
        for name in _attributes(self.path):
            kept = name in _attributes(temporary)
            if not kept or os.getxattr(temporary, name) != os.getxattr(self.path, name):
                raise OutputError(f"its extended attribute {name!r} cannot be kept. {_COPY}")

    def _check_unchanged(self) -> None:
        now, old = self.path.stat(), self._status
        if (now.st_ino, now.st_size, now.st_mtime_ns) != (old.st_ino, old.st_size, old.st_mtime_ns):
            raise OutputError("another program changed it in the meantime. Run the command again.")


def _attributes(path: Path) -> list[str]:
    """Return the names of the extended attributes that must be kept."""
    if sys.platform != "linux":
        return []
    with suppress(OSError):  # a file system without extended attributes
        return [name for name in os.listxattr(path) if name.startswith(_REQUIRED_ATTRIBUTES)]
    return []
