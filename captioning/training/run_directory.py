"""The directory of a run: one config, and one process at a time."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from captioning.errors import TrainingError
from captioning.files import write_atomic
from captioning.json_data import read_json
from captioning.messages import describe_differences
from captioning.training.config import RunConfig

SETTINGS = "settings.json"
_LOCK = ".lock"
# A run can be resumed with other values of these, which do not change what is learned.
_CHANGEABLE = ("output", "cache", "search_images", "rerank_ngrams", "workers", "device", "license")


def check_run_directory(config: RunConfig) -> None:
    """Check that the output directory is empty, absent, or holds a run with the same config.

    Raises:
        TrainingError: The directory holds another run or other files, or is not a directory.
    """
    output = config.output
    if (saved := read_settings(output)) is not None:
        before, now = _comparable(saved), _comparable(config)
        if before != now:
            raise TrainingError(
                f"'{output}' holds a run with other settings: {describe_differences(before, now)}. "
                "Use the same settings to resume it, or another output."
            )
    elif output.exists() and not output.is_dir():
        raise TrainingError(f"'{output}' is not a directory. Use another output.")
    elif output.is_dir() and any(path.name != _LOCK for path in output.iterdir()):
        raise TrainingError(
            f"'{output}' is not empty and does not hold a training run. Use another output."
        )


def read_settings(output: Path) -> RunConfig | None:
    """Return the config of the run in a directory, or None if there is no run.

    Raises:
        TrainingError: The file cannot be read, or is not a config of this version.
    """
    path = output / SETTINGS
    return read_json(path, RunConfig, error=TrainingError) if path.is_file() else None


def write_settings(config: RunConfig) -> None:
    """Write the config into the run's directory."""
    write_atomic(config.output / SETTINGS, json.dumps(_to_json(config), indent=2) + "\n")


@contextmanager
def lock_run_directory(output: Path) -> Iterator[None]:
    """Create the directory, and keep other processes from training in it.

    Raises:
        TrainingError: Another process holds the lock.
    """
    output.mkdir(parents=True, exist_ok=True)
    lock = FileLock(output / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise TrainingError(
            f"another process is training in '{output}'. Wait until it ends, or use another output."
        ) from None
    except NotImplementedError:
        pass  # the file system has no locks
    try:
        yield
    finally:
        lock.release()


def _to_json(config: RunConfig) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    return settings


def _comparable(config: RunConfig) -> dict[str, Any]:
    return {name: value for name, value in _to_json(config).items() if name not in _CHANGEABLE}
