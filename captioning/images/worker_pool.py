"""Processes that decode images, each of which is given one image at a time and a time limit."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import IO

from captioning.errors import ConfigError
from captioning.images.worker import CONTENT, ERROR, HEADER, PATH, READY, WorkerConfig, send

START = "from captioning.images.worker import main; main(sys.argv[2])"
"""What a worker process runs, once it looks for modules where this process does."""
_START_LIMIT = 120.0  # seconds: Python and Pillow from a slow disk
_STARTS = 3
_IMAGES_PER_PROCESS = 2000  # then a fresh one starts, so that none can grow for ever
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class ImageRef:
    """An image that is to be read."""

    name: str
    """What it is called: the path of its file, or where else it is."""
    content: bytes | Callable[[], bytes] | None = None
    """What is in the file, or what fetches it and raises an OSError; None for the file ``name``."""
    error: str = ""
    """Why there is nothing to read."""


@dataclass(frozen=True)
class DecodedImage:
    """What a worker made of an image."""

    pixels: bytes = b""
    """``(3, size, size)`` numbers of 8 bits."""
    thumbnail: bytes = b""
    """A small JPEG, where one was asked for."""
    error: str = ""
    """Why it could not be read."""


class WorkerProcess:
    """One process that decodes images; used from one thread at a time.

    Args:
        settings: What it does with images.
        time_limit: Seconds after which it is killed over an image.
    """

    def __init__(self, settings: WorkerConfig, time_limit: float) -> None:
        self.settings = settings
        self.time_limit = time_limit
        self._process: subprocess.Popen[bytes] | None = None
        self._left = 0
        self._closed = False

    def read(self, name: str, content: bytes | None) -> DecodedImage:
        """Return an image's pixels, or why it has none: it hangs, say, or its decoder crashes."""
        if self._process is None or self._left <= 0:
            self._start()
        self._left -= 1
        late = threading.Event()
        answer = self._answer(self.time_limit, late, name, content)
        if answer is None:
            return DecodedImage(error=f"{name} {self._obituary(late.is_set())}")
        kind, first, second = answer
        if kind == ERROR:
            return DecodedImage(error=first.decode("utf-8", "surrogateescape"))
        return DecodedImage(first, second)

    def close(self) -> None:
        """End the process, also while another thread waits for it; that one gets an error."""
        self._closed = True
        self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _start(self) -> None:
        for _ in range(_STARTS):  # the first may be killed by somebody
            self._end()
            if self._closed:
                return
            self._process = _begin(self.settings)
            self._left = _IMAGES_PER_PROCESS
            answer = self._answer(_START_LIMIT, threading.Event())
            if answer is not None and answer[0] == READY:
                return
        self._end()
        if not self._closed:
            raise _cannot_start("it ends at once")

    def _answer(
        self,
        limit: float,
        late: threading.Event,
        name: str | None = None,
        content: bytes | None = None,
    ) -> tuple[int, bytes, bytes] | None:
        """Ask for an image, if one is named; return the answer, None if the process is no more.

        Args:
            limit: Seconds until the process is killed.
            late: Set where that was so.
            name: The image's.
            content: Of its file; None where that is called so.
        """
        process = self._process
        if process is None or process.stdin is None:
            return None
        timer = self._deadline(limit, late)
        try:
            if name is not None and content is None:
                send(process.stdin, PATH, os.fsencode(name))
            elif name is not None and content is not None:
                send(process.stdin, CONTENT, os.fsencode(name), content)
            return _read_answer(process.stdout)
        except (OSError, ValueError):  # it died, or was ended by another thread
            return None
        finally:
            timer.cancel()

    def _deadline(self, limit: float, late: threading.Event) -> threading.Timer:
        process = self._process

        def end() -> None:
            late.set()
            if process is not None:
                process.kill()

        timer = threading.Timer(limit, end)
        timer.daemon = True
        timer.start()
        return timer

    def _obituary(self, late: bool) -> str:
        """Say why the process is no more, and put it away."""
        process = self._process
        if process is not None and not late:
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)
        code = process.returncode if process is not None else None
        self._end()
        if late:
            return (
                f"was not read within {self.time_limit:g} seconds. The file is damaged, or the "
                "place where it lies does not answer; get it again, or raise the time limit."
            )
        how = ""
        if code is not None and code < 0:
            with suppress(ValueError):
                how = f" ({signal.Signals(-code).name})"
        return f"made the process that read it crash{how}. The file is damaged; get it again."


def _begin(settings: WorkerConfig) -> "subprocess.Popen[bytes]":
    if not sys.executable:
        raise _cannot_start("this program does not know its own interpreter")
    code = f"import json, sys\nsys.path[:] = json.loads(sys.argv[1])\n{START}"
    paths = json.dumps([str(path) for path in sys.path])
    # -P: what lies in the current folder, among the photos perhaps, is no module of ours.
    words = [sys.executable, "-P", "-c", code, paths, json.dumps(asdict(settings))]
    try:
        return subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            process_group=0 if os.name == "posix" else None,  # Ctrl-C is for this process
            env={**os.environ, **_ONE_THREAD},
        )
    except OSError as error:
        raise _cannot_start(str(error)) from error


def _read_answer(pipe: IO[bytes] | None) -> tuple[int, bytes, bytes] | None:
    """Return the kind of an answer and what came with it, or None where the pipe has ended."""
    header = pipe.read(HEADER.size) if pipe else b""
    if pipe is None or len(header) < HEADER.size:
        return None
    kind, first_length, second_length = HEADER.unpack(header)
    first, second = pipe.read(first_length), pipe.read(second_length)
    whole = len(first) == first_length and len(second) == second_length
    return (kind, first, second) if whole else None


def _cannot_start(why: str) -> ConfigError:
    return ConfigError(
        f"No process that reads images can be started with {sys.executable}: {why}. "
        "Read them in this process: --workers 0."
    )
