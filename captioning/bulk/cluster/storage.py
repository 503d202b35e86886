"""The output of a run on a cluster: a folder on a disk or in object storage.

    OUT/part-00000.parquet              rows of partition 0
    OUT/.captioning/run.json            what made the rows, and the plan; written after the inputs
    OUT/.captioning/inputs-XXXX/        inputs of each partition; each start that lists the
                                        inputs has a folder of its own
    OUT/.captioning/done/00000.json     counts of partition 0, written after its rows

Each file appears complete or not at all. A partition is complete if its rows and its counts exist.
Names that begin with a dot are ignored by programs that read the folder as one table.
"""

import json
import re
import secrets
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec

from captioning.errors import OutputError
from captioning.files import replace_atomic
from captioning.sources.given_names import is_url

_OWN_FOLDER = ".captioning"
RUN_FILE = f"{_OWN_FOLDER}/run.json"
_DONE, _INPUTS = f"{_OWN_FOLDER}/done", "inputs-"
_READERS = 16  # of small files
_PART = re.compile(r"part-([0-9]{5,})\.(parquet|jsonl)")


@dataclass(frozen=True)
class Plan:
    """What ``run.json`` holds."""

    settings: dict[str, Any]
    """Everything that decides the rows."""
    partitions: int
    inputs: str
    """Folder with the inputs, in the output folder. Each listing has its own."""
    working_folder: str
    """Folder from which relative paths in tables start."""
    kept_types: str
    """Types of the kept columns; see :class:`KeptTypes`."""


class OutputFolder:
    """The output folder of a run. It can be sent to other processes.

    Args:
        url: Path or URL of the folder.
        format_name: ``parquet`` or ``jsonl``, for writing.
    """

    def __init__(self, url: str, format_name: str = "parquet") -> None:
        self.url = url
        self.format_name = format_name
        self.is_local = not is_url(url)
        with _explain_errors(url):
            self._system, self._path = fsspec.core.url_to_fs(url)

    def __reduce__(self) -> Any:
        return OutputFolder, (self.url, self.format_name)

    def part_name(self, partition: int) -> str:
        """Return the name of the file with the rows of a partition."""
        return f"part-{partition:05}.{self.format_name}"

    def is_empty(self) -> bool:
        """Return whether the folder does not exist, or has no files other than those of a run."""
        return {*self._list("")} <= {_OWN_FOLDER}

    @cached_property
    def plan(self) -> Plan:
        """The plan of the run.

        Raises:
            OutputError: There is none.
        """
        if (plan := self.read_plan()) is None:
            raise self._explain_missing(RUN_FILE)
        return plan

    def read_plan(self) -> Plan | None:
        """Return the plan of the run; None if there is none.

        Raises:
            OutputError: It is damaged.
        """
        content = self.read(RUN_FILE)
        try:
            return None if content is None else Plan(**json.loads(content))
        except (ValueError, TypeError) as error:
            advice = "Use another -o, or --overwrite to start again."
            raise OutputError(f"'{self.url}/{RUN_FILE}' is damaged: {error}. {advice}") from error

    def write_plan(self, plan: Plan) -> None:
        """Write ``run.json``."""
        self.write(RUN_FILE, json.dumps(asdict(plan), indent=1).encode())

    def new_inputs(self) -> str:
        """Return the name of a folder for the inputs that no other listing uses."""
        return f"{_OWN_FOLDER}/{_INPUTS}{secrets.token_hex(4)}"

    def write_inputs(self, inputs: str, partition: int, lines: Iterable[str]) -> None:
        """Write the inputs of a partition.

        Args:
            inputs: The folder.
            partition: Number of the partition.
            lines: The inputs.
        """
        content = "".join(f"{line}\n" for line in lines)
        self.write(f"{inputs}/{partition:05}.jsonl", content.encode())

    def read_inputs(self, partition: int) -> list[str]:
        """Return the inputs of a partition.

        Raises:
            OutputError: They are missing.
        """
        content = self.read(name := f"{self.plan.inputs}/{partition:05}.jsonl")
        if content is None:
            raise self._explain_missing(name)
        return content.decode().splitlines()

    def _explain_missing(self, name: str) -> OutputError:
        return OutputError(
            f"'{self.url}/{name}' is missing. Use another -o, or --overwrite to start again. "
            "On several machines, -o must be a shared folder or a URL."
        )

    def write_part(self, partition: int, content: bytes, counts: dict[str, Any]) -> None:
        """Write the rows of a partition, and then its counts, which make it complete."""
        self.write(self.part_name(partition), content)
        self.write(f"{_DONE}/{partition:05}.json", json.dumps(counts).encode())

    def read_counts(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield number and counts of the complete partitions."""
        parts = {int(match[1]) for name in self._list("") if (match := _PART.fullmatch(name))}
        done = {int(name.removesuffix(".json")): name for name in self._list(_DONE)}
        complete = sorted(parts & set(done))
        paths = [self._full(f"{_DONE}/{done[number]}") for number in complete]
        # Not cat: it takes names with brackets for patterns.
        with _explain_errors(self.url), ThreadPoolExecutor(_READERS) as readers:
            contents = readers.map(self._system.cat_file, paths)
            for number, content in zip(complete, contents, strict=True):
                yield number, json.loads(content)

    def parts(self) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of the files with rows."""
        for name in sorted(self._list("")):
            if _PART.fullmatch(name) and (content := self.read(name)) is not None:
                yield name, content

    def read_part(self, partition: int) -> bytes:
        """Return the rows of a complete partition."""
        return self.read(self.part_name(partition)) or b""

    def clear(self) -> None:
        """Delete the files of an earlier run, if there was one, and no others."""
        if self.read(RUN_FILE) is None:
            return
        parts = [name for name in self._list("") if _PART.fullmatch(name)]
        inputs = (name for name in self._list(_OWN_FOLDER) if name.startswith(_INPUTS))
        folders = [_DONE, *(f"{_OWN_FOLDER}/{name}" for name in inputs)]
        own = [f"{folder}/{name}" for folder in folders for name in self._list(folder)]
        with _explain_errors(self.url):
            # run.json last: without it, an interrupted deletion could not be repeated.
            for name in (*parts, *own, RUN_FILE):
                self._system.rm_file(self._full(name))  # rm takes brackets for patterns
            self._system.invalidate_cache()

    def write(self, name: str, content: bytes) -> None:
        """Create or replace a file; readers see all of it or nothing.

        Raises:
            OutputError: It cannot be written.
        """
        with _explain_errors(self.url):
            if self.is_local:
                path = Path(self._full(name))
                path.parent.mkdir(parents=True, exist_ok=True)
                replace_atomic(path, content)
            else:
                self._system.pipe_file(self._full(name), content)

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if there is none."""
        with _explain_errors(self.url):
            try:
                return bytes(self._system.cat_file(self._full(name)))
            except FileNotFoundError:
                return None

    def _list(self, folder: str) -> list[str]:
        """Return the names in a folder."""
        self._system.invalidate_cache()
        with _explain_errors(self.url):
            try:
                found = self._system.ls(self._full(folder), detail=False)
            except FileNotFoundError:
                return []
        names = (str(path).rstrip("/").rpartition("/")[2] for path in found)
        return [name for name in names if name and not name.startswith(".captioning-")]

    def _full(self, name: str) -> str:
        return f"{self._path.rstrip('/')}/{name}".rstrip("/")


@contextmanager
def _explain_errors(url: str) -> Iterator[None]:
    """Turn errors of file systems, which may be of any type, into an OutputError."""
    try:
        yield
    except OutputError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        advice = "Check -o, your credentials, and the free space."
        raise OutputError(f"cannot use the folder '{url}': {reason}. {advice}") from error
