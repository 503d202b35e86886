"""Replace an original file without damage: content changes, everything else about it stays."""

import io
import os
import secrets
import shutil
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from captioning.errors import OutputError
from captioning.files import copy_attributes, resolve_link
from captioning.messages import explain_error

_COPY = "Write into another folder: -o FOLDER."
_MOVE = "Move it away."


def require_regular_file(path: Path) -> os.stat_result:
    """Return the status of a file; a symbolic link stands for its target.

    Raises:
        OutputError: There is no such file, or it is not a regular file.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = f"{explain_error(error)}."
        if isinstance(error, FileNotFoundError) and path.is_symlink():
            reason = f"it is a link to '{path.readlink()}', which does not exist. {_MOVE}"
        raise OutputError(reason) from error
    if stat.S_ISDIR(status.st_mode):
        raise OutputError(f"it is a folder. {_MOVE}")
    if not stat.S_ISREG(status.st_mode):
        raise OutputError(f"it is a pipe or a device. {_MOVE}")
    return status


class OriginalFile:
    """A file whose content is about to be replaced; a symbolic link stands for its target.

    The new content is written to a temporary file in the same folder, which gets the owner,
    permissions, access lists and extended attributes of the original and is then renamed over it.
    At every moment the name leads to the old content or the new one, also after a crash.

    Some files cannot be replaced like this without a loss: a file with several names (hard links)
    would be separated from the others, and a file of another user would change its owner. They
    are refused. Writing into the existing file would keep them, but a crash in the middle would
    leave a damaged original.

    Args:
        path: The file.

    Raises:
        OutputError: There is no such file, or it cannot be replaced without a loss.
    """

    def __init__(self, path: Path) -> None:
        self._status = require_regular_file(path)
        self.path = resolve_link(path)
        if self._status.st_nlink > 1:
            count = self._status.st_nlink
            raise OutputError(
                f"it has {count} hard links, and only one would get the caption. {_COPY}"
            )
        if not os.access(self.path, os.W_OK):
            raise OutputError(f"it is write-protected. {_COPY}")

    def replace(self, content: Path | bytes, *, modified_ns: int | None = None) -> None:
        """Put other content in the place of that of this file.

        Args:
            content: The new content, or a file that has it.
            modified_ns: Modification time to set, in nanoseconds. None sets the current time.

        Raises:
            OutputError: It cannot be written, or has changed since this object was made. The file
                is unchanged.
        """
        temporary = self.path.with_name(f".captioning-{secrets.token_hex(8)}")
        try:
            self._create(temporary)
            with (
                temporary.open("r+b") as file,
                io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as source,
            ):
                file.truncate()
                shutil.copyfileobj(source, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
            if lost := copy_attributes(self.path, temporary):
                raise OutputError(f"its {lost[0]} cannot be kept. {_COPY}")
            if modified_ns is not None:
                os.utime(temporary, ns=(modified_ns, modified_ns))
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

    def _check_unchanged(self) -> None:
        now, old = self.path.stat(), self._status
        if (now.st_ino, now.st_size, now.st_mtime_ns) != (old.st_ino, old.st_size, old.st_mtime_ns):
            raise OutputError("another program changed it in the meantime. Run the command again.")
