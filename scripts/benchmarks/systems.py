"""Systems to measure, each in a process of its own."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import Run

SCRIPTS = Path(__file__).parents[1]
THIS_CHECKOUT = SCRIPTS.parent
_POLL = 0.1  # seconds between two readings of a process's memory
_MEMORY_ROWS = 1000  # the memory of a long run is read after this many images, and at the end


@dataclass(frozen=True)
class Place:
    """Where a system runs.

    Attributes:
        checkout: Checkout of this project whose package it imports.
        python: Its Python interpreter.
        threads: Processors that it may use; None for all.
        first: The first of these processors.
        environment: Environment variables.
    """

    checkout: Path = THIS_CHECKOUT
    python: str = sys.executable
    threads: int | None = None
    first: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)

    def start(self, *words: str, **pipes: Any) -> "subprocess.Popen[str]":
        """Start Python with arguments."""
        # The benchmark's own modules come last: a checkout never imports them.
        path = {"PYTHONPATH": f"{self.checkout}{os.pathsep}{SCRIPTS}"}
        environment = {**os.environ, **path, **self.environment}
        if self.threads is not None:
            environment["OMP_NUM_THREADS"] = str(self.threads)
        process = subprocess.Popen(
            [self.python, "-P", *words], env=environment, text=True, bufsize=1, **pipes
        )
        if self.threads is not None and hasattr(os, "sched_setaffinity"):
            processors = sorted(os.sched_getaffinity(0))[self.first : self.first + self.threads]
            os.sched_setaffinity(process.pid, processors)
        return process


class Worker:
    """A process that prepares a task once and then runs it whenever it is told to.

    Args:
        name: Name in the report.
        task: Name of a task of :mod:`benchmarks.worker`.
        settings: Its arguments.
        place: Where it runs.
    """

    def __init__(
        self, name: str, task: str, settings: Mapping[str, Any], place: Place | None = None
    ) -> None:
        self.name = name
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        words = ("-m", "benchmarks.worker", task, json.dumps(dict(settings)))
        self._process = (place or Place()).start(*words, **pipes)
        self._read_line()  # it is ready

    def run(self) -> Run:
        """Run the task once."""
        assert self._process.stdin is not None
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        return Run(**json.loads(self._read_line()))

    def _read_line(self) -> str:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            sys.exit(f"benchmark: {self.name} failed with exit code {self._process.wait()}.")
        return line

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()


class Job:
    """Several processes that do a task together, as torchrun starts them.

    Args:
        name: Name in the report.
        task: Name of a task of :mod:`benchmarks.worker`.
        settings: Its arguments.
        processes: Their number.
        threads: Processors of each process; no two processes share one.
    """

    def __init__(
        self, name: str, task: str, settings: Mapping[str, Any], *, processes: int, threads: int
    ) -> None:
        self.name = name
        self._pool = ThreadPoolExecutor(processes)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        job |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))

        def start(rank: int) -> Worker:
            own = dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank))
            place = Place(threads=threads, first=rank * threads, environment={**job, **own})
            return Worker(name, task, settings, place)

        self._workers = list(self._pool.map(start, range(processes)))

    def run(self) -> Run:
        """Run the task once in all processes, until the last one is done."""
        return max(self._pool.map(Worker.run, self._workers), key=lambda run: run.seconds)

    def close(self) -> None:
        """End the processes."""
        list(self._pool.map(Worker.close, self._workers))
        self._pool.shutdown()


class CaptionCommand:
    """``captioning caption`` on a folder, in a new process for each run, into JSON lines.

    Args:
        name: Name in the report.
        images: The folder.
        units: Number of its images.
        flags: Further words of the command.
        place: Where it runs.
        module: Module that runs the command; it may print times of stages as JSON.
    """

    def __init__(
        self,
        name: str,
        images: Path,
        units: int,
        flags: Sequence[str],
        place: Place,
        *,
        module: str = "captioning",
    ) -> None:
        self.name = name
        self.units = units
        self.place = place
        self.words = ("-m", module, "caption", str(images), *flags)

    def run(self) -> Run:
        """Caption the folder once."""
        with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:  # noqa: PTH123
            output = Path(folder) / "captions.jsonl"
            pipes = {"stdout": subprocess.PIPE, "stderr": nowhere}
            start = time.perf_counter()
            process = self.place.start(*self.words, "-o", str(output), **pipes)
            memory = _watch_memory(process, output)
            seconds = time.perf_counter() - start
            stages, _ = process.communicate()
            rows = output.read_bytes().count(b"\n") if output.exists() else 0
        if process.returncode or rows != self.units:
            sys.exit(
                f"benchmark: {self.name} wrote {rows} of {self.units} rows and ended with exit "
                f"code {process.returncode}: {' '.join(self.words)}"
            )
        return Run(seconds, self.units, json.loads(stages or "{}"), memory)

    def close(self) -> None:
        """Do nothing: each run ends its process."""


class ImportTorch:
    """``import torch`` in a new process: the part of the start-up that is not ours.

    Args:
        place: Where it runs.
    """

    name = "import torch"

    def __init__(self, place: Place) -> None:
        self.place = place

    def run(self) -> Run:
        """Start Python and import torch."""
        start = time.perf_counter()
        code = self.place.start("-c", "import torch").wait()
        if code:
            sys.exit(f"benchmark: 'import torch' failed with exit code {code}.")
        return Run(time.perf_counter() - start, 1)

    def close(self) -> None:
        """Do nothing: each run ends its process."""


def _watch_memory(process: "subprocess.Popen[str]", output: Path) -> dict[str, float]:
    """Wait for the end of a process; return its resident memory over time, in MB."""
    memory: dict[str, float] = {}
    rows = read = 0
    while process.poll() is None:
        status = _read_status(process.pid)
        if output.exists():
            with output.open("rb") as file:
                file.seek(read)
                new = file.read()
            rows, read = rows + new.count(b"\n"), read + len(new)
            if new and "VmRSS" in status:  # not later: memory is freed at the end
                memory["mb_at_end"] = status["VmRSS"]
                if rows >= _MEMORY_ROWS:
                    memory.setdefault("mb_after_1000", status["VmRSS"])
        if "VmHWM" in status:
            memory["peak_mb"] = status["VmHWM"]
        time.sleep(_POLL)
    return memory


def _read_status(process: int) -> dict[str, float]:
    """Return the memory of a process in MB, by field of the Linux kernel; empty elsewhere."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): round(int(size) / 1000, 1) for name, size, _ in fields}
