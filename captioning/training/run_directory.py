"""The directory of a training run: one run, under one set of settings, by one process at a time."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from captioning.errors import TrainingError
from captioning.files import write_atomic
from captioning.messages import describe_differences
from captioning.training.config import RunConfig

SETTINGS = "settings.json"
"""The file of a run's settings, by which it is told from others."""
_LOCK = ".lock"
_PLAIN = RunConfig(data=("",), output=Path())


def check_run_directory(config: RunConfig) -> None:
    """Refuse a directory with another run or with anything else in it.

    Raises:
        TrainingError: It holds a run with other settings, no run at all, or is no folder.
    """
    path = config.output / SETTINGS
    if path.is_file():
        wanted = _settings(config)
        found = _as_written_now(_read_settings(path), _settings(_PLAIN))
        if found != wanted:
            changes = describe_differences(found, wanted)
            raise TrainingError(
                f"{config.output} holds a run with other settings: {changes}. "
                "Give the same settings to go on with it, or another output to start afresh."
            )
    elif config.output.is_dir() and any(path.name != _LOCK for path in config.output.iterdir()):
        raise TrainingError(
            f"{config.output} exists, is not empty and holds no training run. Give another output."
        )
    elif config.output.exists() and not config.output.is_dir():
        raise TrainingError(f"{config.output} is no folder. Give another output.")


def write_settings(config: RunConfig) -> None:
    """Write the settings that the run is continued under."""
    write_atomic(config.output / SETTINGS, json.dumps(_settings(config), indent=2) + "\n")


@contextmanager
def lock_run_directory(output: Path) -> Iterator[None]:
    """Let no other process train in the same directory meanwhile.

    Raises:
        TrainingError: One does.
    """
    output.mkdir(parents=True, exist_ok=True)
    lock = FileLock(output / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise TrainingError(
            f"Another process is training in {output}. Wait for it, or give another output."
        ) from None
    except NotImplementedError:
        pass  # a file system that has no locks
    try:
        yield
    finally:
        lock.release()


def _settings(config: RunConfig) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    for free in ("output", "cache", "search_images", "rerank_ngrams", "workers", "device"):
        settings.pop(free)  # they change nothing in the weights but the order of sums
    return settings


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TrainingError(
            f"{path} cannot be read ({error}), so it is not known what run this is. Give another "
            "output to start afresh."
        ) from error
    if not isinstance(found, dict):
        raise TrainingError(
            f"{path} holds no settings, so it is not known what run this is. Give another output "
            "to start afresh."
        )
    return found


def _as_written_now(found: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    """Return an older run's settings with those that came later, as they were before them."""
    if isinstance(found.get("data"), str):
        found = {**found, "data": [found["data"]]}
    inner = {
        name: _as_written_now(found[name], value)
        for name, value in plain.items()
        if isinstance(value, dict) and isinstance(found.get(name), dict)
    }
    return {**plain, **found, **inner}
