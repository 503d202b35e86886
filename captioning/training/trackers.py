"""Experiment trackers, such as Weights & Biases, that get the log of a run through accelerate."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from captioning.errors import ConfigError

_PROJECT = "captioning"


def check_trackers(names: Sequence[str]) -> None:
    """Check that trackers can be used here.

    Raises:
        ConfigError: accelerate is not installed, or a tracker is unknown or not installed.
    """
    if not names:
        return
    try:
        from accelerate.tracking import get_available_trackers
        from accelerate.utils import LoggerType
    except ImportError as error:
        raise ConfigError(
            f"the trackers {', '.join(names)} need the package accelerate. Install it: "
            'pip install "captioning[train]"'
        ) from error
    known = [str(name) for name in LoggerType.list() if str(name) != "all"]
    installed = [str(name) for name in get_available_trackers()]
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown tracker {name!r}. Use one of: {', '.join(sorted(known))}.")
        if name not in installed:
            raise ConfigError(f"the tracker {name!r} is not installed. Install its package.")


class Trackers:
    """Running trackers. Their own environment variables and config files set account and run.

    Args:
        names: Names of the trackers; none start nothing.
        directory: Directory of trackers that write files.
        settings: Settings of the run.
    """

    def __init__(self, names: Sequence[str], directory: Path, settings: Mapping[str, Any]) -> None:
        self._accelerator: Any = None
        if names:
            from accelerate import Accelerator

            self._accelerator = Accelerator(log_with=list(names), project_dir=directory)
            self._accelerator.init_trackers(_PROJECT, config=dict(settings))

    def write(self, step: int, split: str, values: Mapping[str, float | int]) -> None:
        """Report values after a step."""
        if self._accelerator is not None:
            named = {f"{split}/{name}": value for name, value in values.items()}
            self._accelerator.log(named, step=step)

    def close(self) -> None:
        """End the trackers."""
        if self._accelerator is not None:
            for tracker in self._accelerator.trackers:  # end_training also disconnects processes
                tracker.finish()
