"""Handles of worker processes; each decodes one image at a time under a time limit."""

import json
import os
import signal
import subprocess
import sys
import threading
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
_IMAGES_PER_PROCESS = 2000  # a restart bounds the effect of memory leaks in decoders
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class WorkerProcess:
    """A worker process that restarts as needed; used from one thread at a time.

    Args:
        config: What it does with each image.
        time_limit: Seconds per image, after which the process is killed.
    """

    def __init__(self, config: WorkerConfig, time_limit: float) -> None:
        self.config = config
        self.time_limit = time_limit
        self._process: subprocess.Popen[bytes] | None = None
        self._images_left = 0
        self._closed = False

    def read(self, name: str, content: bytes | None) -> DecodedImage:
        """Decode an image; a crash or a hang of the decoder becomes an error.

        Args:
            name: Name of the image, and its path if ``content`` is None.
            content: Content of the file.
        """
        if self._process is None or self._images_left <= 0:
            self._start()
        self._images_left -= 1
        timed_out = threading.Event()
        response = self._exchange(self.time_limit, timed_out, name, content)
        if response is None:
            return DecodedImage(error=f"cannot read '{name}': {self._explain_end(timed_out)}")
        kind, first, second = response
        if kind == ERROR:
            return DecodedImage(error=first.decode("utf-8", "surrogateescape"))
        return DecodedImage(first, second)

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
            response = self._exchange(_START_LIMIT, threading.Event())
            if response is not None and response[0] == READY:
                return
        self._end()
        if not self._closed:
            raise _start_error("it ends at once")

    def _exchange(
        self,
        limit: float,
        timed_out: threading.Event,
        name: str | None = None,
        content: bytes | None = None,
    ) -> tuple[int, bytes, bytes] | None:
        """Send a request, if there is a name, and return the response; None if the process died.

        Args:
            limit: Seconds until the process is killed.
            timed_out: Set if it was killed.
            name: Name or path of the image.
            content: Content of the file; None if ``name`` is a path.
        """
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return None

        def kill() -> None:
            timed_out.set()
            process.kill()

        timer = threading.Timer(limit, kill)
        timer.daemon = True
        timer.start()
        try:
            if name is not None:
                kind = PATH if content is None else CONTENT
                send_message(process.stdin, kind, os.fsencode(name), content or b"")
            return receive_message(process.stdout)
        except (OSError, ValueError):  # the process died, or another thread closed its pipes
            return None
        finally:
            timer.cancel()

    def _explain_end(self, timed_out: threading.Event) -> str:
        """Return why the process ended, and clean it up."""
        process = self._process
        if process is not None and not timed_out.is_set():
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)
        code = process.returncode if process is not None else None
        self._end()
        if timed_out.is_set():
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
