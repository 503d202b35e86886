"""One exiftool process that reads and writes tags of images, through PyExifTool.

exiftool reads its arguments from a pipe, one per line. A file name with a newline would become
several arguments there, and one with a leading dash an option. Therefore exiftool never receives
a user's file name: each image is reached through a symbolic link with a plain ASCII name in a
private temporary folder, and new files are written into that folder. For the same reason, values
to be written are passed as files.
"""

import base64
import json
import os
import re
import shutil
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from captioning.errors import ConfigError, OutputError

_INSTALL = (
    "Install exiftool (apt install libimage-exiftool-perl, or brew install exiftool) and "
    'PyExifTool (pip install "captioning[embed]"), or write .xmp files: --format xmp.'
)
_POLL_SECONDS = 0.02
_START_SECONDS = 60.0
_PLAIN_PATH = re.compile(r"[\w./:\\~+-][\w ./:\\~+-]*", re.ASCII)
_SUFFIX = re.compile(r"\.[a-z0-9]{1,5}", re.ASCII)
_SUFFIXES = ((b"\xff\xd8\xff", ".jpg"), (b"\x89PNG", ".png"), (b"RIFF", ".webp"))


class ExifTool:
    """A running exiftool that restarts if it dies.

    Args:
        time_limit: Seconds after which a command is given up and its process killed.

    Raises:
        ConfigError: exiftool or PyExifTool is not installed, or does not work.
    """

    def __init__(self, time_limit: float = 60.0) -> None:
        self.time_limit = time_limit
        self._folder = tempfile.mkdtemp(prefix="captioning-")
        self._remove_folder = weakref.finalize(self, shutil.rmtree, self._folder, True)
        if not _PLAIN_PATH.fullmatch(self._folder):
            problem = f"the path of the temporary folder {self._folder!r} has special characters"
            raise ConfigError(f"exiftool cannot start: {problem}. Set TMPDIR to another folder.")
        self._tool = self._start()
        self.version = str(self._tool.version)

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
            output = self._run("-j", "-G1", "-b", "-charset", "iptc=UTF8", *tags, link)
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
            old_tags, new_tags = self._parse(self._run("-j", "-G1", old, new), 2)
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
                self._run(*arguments, "-o", str(copy), link)
            if self._tool.last_status != 0 or not copy.is_file() or not copy.stat().st_size:
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

    def _run(self, *arguments: str) -> str:
        """Run one command and return its standard output.

        If the process dies, the command is repeated once in a new process: Ctrl-C in a terminal
        also ends exiftool, while the run still finishes its batch.
        """
        from exiftool.exceptions import ExifToolException

        for _ in range(2):
            started = time.monotonic()
            if self._tool is None or self._tool._process.poll() is not None:
                self._kill()
                self._tool = self._start()
            try:
                with _watch(self._tool, self.time_limit):
                    return str(self._tool.execute(*arguments))
            except (OSError, ValueError, UserWarning, ExifToolException):
                self._kill()  # PyExifTool also warns if the process has died
            except BaseException:
                self._kill()  # its answer would be read as the answer to the next command
                raise
            if time.monotonic() - started > self.time_limit:
                raise OutputError(f"exiftool did not finish within {self.time_limit:g} seconds.")
        raise OutputError("exiftool crashes on this file.")

    def _parse(self, output: str, count: int) -> list[dict[str, Any]]:
        """Return the JSON objects in an answer of exiftool, one per image."""
        with suppress(ValueError):
            found: list[dict[str, Any]] = json.loads(output, parse_int=str, parse_float=str)
            if len(found) == count:
                return found
        raise OutputError(f"exiftool {self.version} reports: {self._last_error()}")

    def _last_error(self) -> str:
        lines = str(self._tool.last_stderr if self._tool else "").splitlines()
        errors = [line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")]
        text = (errors or lines or ["unknown error"])[0]
        return text.partition(f" - {self._folder}")[0].strip().rstrip(".") + "."

    def _start(self) -> Any:
        try:
            import exiftool
            from exiftool.exceptions import ExifToolException
        except ImportError:
            raise ConfigError(f"--format embed needs PyExifTool. {_INSTALL}") from None
        try:
            # An empty config file: settings of the user must not change what is written.
            tool = exiftool.ExifTool(common_args=[], config_file="", encoding="utf-8")
            with _watch(tool, _START_SECONDS):
                tool.run()
        except FileNotFoundError:
            raise ConfigError(f"--format embed needs exiftool. {_INSTALL}") from None
        except (OSError, ValueError, RuntimeError, ExifToolException) as error:
            raise ConfigError(f"exiftool does not start: {error}. {_INSTALL}") from error
        return tool

    def _kill(self) -> None:
        tool, self._tool = self._tool, None
        process = None if tool is None else tool._process
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            with suppress(OSError):
                pipe.close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns about the process that ended
            _ = (
                tool.running
            )  # updates its state, so that its destructor does not write to the process


@contextmanager
def _watch(tool: Any, time_limit: float) -> Iterator[None]:
    """Make a command of PyExifTool fail if its process dies or exceeds the time limit.

    PyExifTool 0.5.6 reads an answer up to its final marker, and never returns if the process has
    died. Here the pipes of a dead process are replaced by a file that cannot be read, which ends
    that loop with an OSError.
    """
    finished = threading.Event()
    deadline = time.monotonic() + time_limit

    def watch() -> None:
        while not finished.wait(_POLL_SECONDS):
            process = tool._process
            if process is None:
                continue
            if time.monotonic() > deadline:
                process.kill()
            if process.poll() is not None:
                break
        else:
            return
        unreadable = os.open(os.devnull, os.O_WRONLY)
        try:
            for pipe in (process.stdout, process.stderr):
                os.dup2(unreadable, pipe.fileno())
        finally:
            os.close(unreadable)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


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
