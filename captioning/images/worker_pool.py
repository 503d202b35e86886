"""Handles of worker processes; each decodes one image at a time under a time limit."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict

from captioning.errors import ConfigError
from captioning.images.worker import (
    CONTENT,
    ERROR,
    PATH,
    READY,
    DecodedImage,
    WorkerConfig,
    receive_message,
    send_message,
)

WORKER_CODE = "from captioning.images.worker import main; main(sys.argv[2])"
"""Code of a worker process. It runs after ``sys.path`` is set to that of this process."""
_START_LIMIT = 120.0  # seconds; Python and Pillow may come from a slow disk
_START_ATTEMPTS = 3
_WATCH_INTERVAL = 0.1  # seconds
_IMAGES_PER_PROCESS = 2000  # a restart bounds the effect of memory leaks in decoders
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class Watchdog:
    """Kills processes at their deadlines. One thread serves all: starting one per image is slow."""

    def __init__(self) -> None:
        self._deadlines: dict[subprocess.Popen[bytes], float] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    def start(self, process: "subprocess.Popen[bytes]", seconds: float) -> None:
        """Set the deadline of a process."""
        with self._lock:
            self._deadlines[process] = time.monotonic() + seconds

    def stop(self, process: "subprocess.Popen[bytes]") -> bool:
        """Remove the deadline of a process, and return whether it was killed."""
        with self._lock:
            return self._deadlines.pop(process, None) is None

    def close(self) -> None:
        """End the thread."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(_WATCH_INTERVAL):
            with self._lock:
                now = time.monotonic()
                for process in [each for each, end in self._deadlines.items() if end < now]:
                    del self._deadlines[process]
                    process.kill()


class WorkerProcess:
    """A worker process that restarts as needed; used from one thread at a time.

    Args:
        config: What it does with each image.
        time_limit: Seconds per image, after which the process is killed.
        watchdog: Kills the process.
    """

    def __init__(self, config: WorkerConfig, time_limit: float, watchdog: Watchdog) -> None:
        self.config = config
        self.time_limit = time_limit
        self._watchdog = watchdog
        self._timed_out = False
        self._process: subprocess.Popen[bytes] | None = None
        self._images_left = 0
        self._closed = False

    def read(self, name: str, content: bytes | None, stamp: str = "") -> DecodedImage:
        """Decode an image; a crash or a hang of the decoder becomes an error.

        Args:
            name: Name of the image, and its path if ``content`` is None.
            content: Content of the file.
            stamp: Stamp of the file if its digest is wanted.
        """
        if self._process is None or self._images_left <= 0:
            self._start()
        self._images_left -= 1
        kind = PATH if content is None else CONTENT
        request = kind, os.fsencode(name), content or b"", stamp.encode()
        response = self._exchange(self.time_limit, request)
        if response is None:
            return DecodedImage(error=f"cannot read '{name}': {self._explain_end()}")
        kind, first, second, third = response
        if kind == ERROR:
            return DecodedImage(error=first.decode("utf-8", "surrogateescape"))
        return DecodedImage(first, second, third.decode())

    def close(self) -> None:
        """End the process. A read in another thread ends with an error."""
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
        for _ in range(_START_ATTEMPTS):
            self._end()
            if self._closed:
                return
            self._process = _start_process(self.config)
            self._images_left = _IMAGES_PER_PROCESS
            response = self._exchange(_START_LIMIT)
            if response is not None and response[0] == READY:
                return
        self._end()
        if not self._closed:
            raise _start_error("it ends at once")

    def _exchange(
        self, limit: float, request: tuple[int, bytes, bytes, bytes] | None = None
    ) -> tuple[int, bytes, bytes, bytes] | None:
        """Send a request, if there is one, and return the response; None if the process died.

        Args:
            limit: Seconds until the process is killed.
            request: See :mod:`captioning.images.worker`.
        """
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return None
        response = None
        self._watchdog.start(process, limit)
        try:
            if request is not None:
                send_message(process.stdin, *request)
            response = receive_message(process.stdout)
        except (OSError, ValueError):  # the process died, or another thread closed its pipes
            pass
        finally:
            self._timed_out = self._watchdog.stop(process)
        return None if self._timed_out else response

    def _explain_end(self) -> str:
        """Return why the process ended, and clean it up."""
        process = self._process
        if process is not None and not self._timed_out:
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)
        code = process.returncode if process is not None else None
        self._end()
        if self._timed_out:
            return (
                f"not finished within {self.time_limit:g} seconds. The file is damaged or its disk "
                "does not answer. Download it again, or raise the time limit."
            )
        signal_name = ""
        if code is not None and code < 0:
            with suppress(ValueError):
                signal_name = f" ({signal.Signals(-code).name})"
        return f"its decoder crashed{signal_name}. The file is damaged. Download it again."


def _start_process(config: WorkerConfig) -> "subprocess.Popen[bytes]":
    if not sys.executable:
        raise _start_error("the path of the Python interpreter is unknown")
    code = f"import json, sys\nsys.path[:] = json.loads(sys.argv[1])\n{WORKER_CODE}"
    paths = json.dumps([str(path) for path in sys.path])
    # -P: files of the current folder, which may be an image folder, must not become modules.
    command = [sys.executable, "-P", "-c", code, paths, json.dumps(asdict(config))]
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            process_group=0 if os.name == "posix" else None,  # Ctrl-C must not reach the workers
            env={**os.environ, **_ONE_THREAD},
        )
    except OSError as error:
        raise _start_error(str(error)) from error


def _start_error(reason: str) -> ConfigError:
    return ConfigError(
        f"cannot start an image worker with {sys.executable}: {reason}. Decode images in this "
        "process instead: --workers 0."
    )
