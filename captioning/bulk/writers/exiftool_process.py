"""One exiftool process that reads and writes tags of images.

exiftool reads its arguments from a pipe, one per line. A file name with a newline would become
several arguments there, and one with a leading dash an option. Therefore exiftool never receives
a user's file name: each image is reached through a symbolic link with a plain ASCII name in a
private temporary folder, and new files are written into that folder. For the same reason, values
to be written are passed as files.
"""

import base64
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from captioning.errors import ConfigError, OutputError

_INSTALL = (
    "Install it (apt install libimage-exiftool-perl, or brew install exiftool), or write .xmp "
    "files: --format xmp."
)
# An empty config file: settings of the user must not change what is written.
_COMMAND = ("exiftool", "-config", "", "-stay_open", "True", "-@", "-")
_READY = b"{ready}"
_BYTES_PER_SECOND = 1_000_000  # of a slow network drive
_PLAIN_PATH = re.compile(r"[\w./:\\~+-][\w ./:\\~+-]*", re.ASCII)
_SUFFIX = re.compile(r"\.[a-z0-9]{1,5}", re.ASCII)
_SUFFIXES = ((b"\xff\xd8\xff", ".jpg"), (b"\x89PNG", ".png"), (b"RIFF", ".webp"))
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


class ExifTool:
    """A running exiftool that restarts if it dies.

    Args:
        time_limit: Seconds after which a command is given up and its process killed; large files
            get more.

    Raises:
        ConfigError: exiftool is not installed, or does not work.
    """

    def __init__(self, time_limit: float = 60.0) -> None:
        self.time_limit = time_limit
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.mkdtemp(prefix="captioning-")
        self._errors = Path(self._folder, "errors.txt")
        self._remove_folder = weakref.finalize(self, shutil.rmtree, self._folder, True)
        if not _PLAIN_PATH.fullmatch(self._folder):
            problem = f"the path of the temporary folder {self._folder!r} has special characters"
            raise ConfigError(f"exiftool cannot start: {problem}. Set TMPDIR to another folder.")
        try:
            self.version = self._run("-ver")[0].strip()
        except OutputError:
            reason = self._last_error()
            raise ConfigError(f"exiftool does not start: {reason} {_INSTALL}") from None

    def read_tags(self, path: Path, tags: Sequence[str]) -> dict[str, list[str]]:
        """Return the values of tags as text, by names such as ``XMP-dc:Description``.

        Most tags have one value. Text that is not UTF-8 is decoded as Windows-1252; bytes that
        do not exist there become surrogates.

        Args:
            path: An image.
            tags: Options of exiftool, such as ``-XMP-dc:Description``.

        Raises:
            OutputError: The file cannot be read by exiftool.
        """
        with self._linked(path) as link:
            # -b marks strings that are not UTF-8; IPTC without a stated encoding is passed as is.
            output = self._run("-j", "-G1", "-b", "-charset", "iptc=UTF8", *tags, link)[0]
        return {
            name: [_decode_value(item) for item in (value if isinstance(value, list) else [value])]
            for name, value in self._parse(output, 1)[0].items()
        }

    def find_lost_tags(self, before: Path, after: Path) -> set[str]:
        """Return the names of tags, such as ``IFD0:Orientation``, that only one image has.

        Args:
            before: The image that may have more tags.
            after: The image that should have them too.

        Raises:
            OutputError: A file cannot be read by exiftool.
        """
        with self._linked(before) as old, self._linked(after) as new:
            old_tags, new_tags = self._parse(self._run("-j", "-G1", old, new)[0], 2)
        return set(old_tags) - set(new_tags)

    @contextmanager
    def write_copy(
        self, path: Path, values: Sequence[tuple[str, str]], options: Sequence[str] = ()
    ) -> Iterator[Path]:
        """Write a copy of an image with new tags; yield its path, which is valid in this context.

        Args:
            path: The image, which is only read.
            values: Pairs of a tag, such as ``XMP-dc:Description``, and its text.
            options: Further options of exiftool.

        Raises:
            OutputError: exiftool cannot write this file.
        """
        with self._scratch_folder() as folder:
            arguments = list(options)
            for number, (tag, value) in enumerate(values):
                file = folder / f"value-{number}.txt"
                file.write_bytes(value.encode("utf-8"))
                arguments.append(f"-{tag}<={file}")
            with self._linked(path) as link:
                copy = folder / f"copy{Path(link).suffix}"
                arguments += ["-o", str(copy), link]
                _, status = self._run(*arguments, size=path.stat().st_size, new_file=copy)
            if status or not copy.is_file() or not copy.stat().st_size:
                raise OutputError(f"exiftool {self.version} reports: {self._last_error()}")
            yield copy

    def close(self) -> None:
        """End the process and remove the temporary folder."""
        self._kill()
        self._remove_folder()

    @contextmanager
    def _linked(self, path: Path) -> Iterator[str]:
        """Yield a plain path to an image: a link, or a copy on systems without links."""
        with self._scratch_folder() as folder:
            link = folder / f"image{_suffix_for(path)}"
            target = os.path.realpath(path)
            try:
                link.symlink_to(target)
            except (OSError, NotImplementedError):
                shutil.copyfile(target, link)
            yield str(link)

    @contextmanager
    def _scratch_folder(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self._folder, ignore_cleanup_errors=True) as folder:
            yield Path(folder)

    def _run(self, *arguments: str, size: int = 0, new_file: Path | None = None) -> tuple[str, int]:
        """Run one command on files of ``size`` bytes; return its output and exit status.

        If the process dies, the command is repeated once in a new process: Ctrl-C in a terminal
        also ends exiftool, while the run still finishes its batch.
        """
        limit = self.time_limit + size / _BYTES_PER_SECOND
        for _ in range(2):
            if new_file is not None:
                new_file.unlink(missing_ok=True)  # of a process that died
            started = time.monotonic()
            if (answer := self._ask(arguments, limit)) is not None:
                output, _, status = answer.rpartition("=")
                return output, int(status)
            if time.monotonic() - started >= limit:
                raise OutputError(f"exiftool did not finish within {limit:.3g} seconds.")
        raise OutputError("exiftool crashes on this file.")

    def _ask(self, arguments: Sequence[str], limit: float) -> str | None:
        """Return the answer to one command; None if the process died or exceeded the limit."""
        self._errors.write_bytes(b"")
        process = self._process
        if process is None or process.poll() is not None:
            process = self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(limit, process.kill)
        timer.start()
        try:
            command = "\n".join([*arguments, "-echo3", "=${status}", "-execute", ""])
            process.stdin.write(command.encode())
            process.stdin.flush()
            answer: list[bytes] = []
            for line in process.stdout:
                if line.strip() == _READY:
                    return b"".join(answer).decode()
                answer.append(line)
        except OSError:
            pass  # it has died
        except BaseException:
            self._kill()  # its answer would be read as the answer to the next command
            raise
        finally:
            timer.cancel()
        self._kill()
        return None

    def _last_error(self) -> str:
        """Return the first error that exiftool has printed, or else its first line."""
        lines = self._errors.read_text("utf-8", "replace").splitlines() or ["unknown error"]
        text = next((line for line in lines if line.startswith("Error: ")), lines[0])
        text = text.removeprefix("Error: ").partition(f" - {self._folder}")[0]
        return text.strip().rstrip(".") + "."

    def _parse(self, output: str, count: int) -> list[dict[str, Any]]:
        """Return the JSON objects in an answer of exiftool, one per image."""
        with suppress(ValueError):
            found: list[dict[str, Any]] = json.loads(output, parse_int=str, parse_float=str)
            if len(found) == count:
                return found
        raise OutputError(f"exiftool {self.version} reports: {self._last_error()}")

    def _start(self) -> "subprocess.Popen[bytes]":
        self._kill()
        try:
            with self._errors.open("ab") as errors:
                self._process = subprocess.Popen(
                    _COMMAND,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    preexec_fn=_end_with_parent if _LIBC else None,  # noqa: PLW1509, only a system call
                )
        except FileNotFoundError:
            raise ConfigError(f"--format embed needs exiftool. {_INSTALL}") from None
        except OSError as error:
            raise ConfigError(f"exiftool does not start: {error}. {_INSTALL}") from error
        return self._process

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with suppress(OSError):  # what it had not read yet
                process.communicate()


def _end_with_parent() -> None:
    """Make the system end exiftool with this process; it does not notice the end of its input."""
    assert _LIBC is not None
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _suffix_for(path: Path) -> str:
    """Return the extension that fits a file's content; exiftool refuses files with a wrong one."""
    head = b""
    with suppress(OSError), path.open("rb") as file:
        head = file.read(4)
    for signature, suffix in _SUFFIXES:
        if head.startswith(signature):
            return suffix
    suffix = path.suffix.lower()
    return suffix if _SUFFIX.fullmatch(suffix) else ".tif"


def _decode_value(value: object) -> str:
    """Return a JSON value of exiftool as text."""
    if isinstance(value, bool):  # exiftool writes the texts "true" and "false" without quotes
        return str(value).lower()
    text = str(value)
    if text.startswith("base64:"):
        with suppress(ValueError):
            data = base64.b64decode(text.removeprefix("base64:"), validate=True)
            return data.decode("cp1252", "surrogateescape")
    return text
