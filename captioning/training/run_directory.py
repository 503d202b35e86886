"""The directory of a run: one config, and one process at a time."""

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from captioning.errors import TrainingError
from captioning.file_lock import lock_output
from captioning.files import write_atomic
from captioning.json_data import read_json
from captioning.messages import describe_differences
from captioning.training.config import RunConfig

SETTINGS = "settings.json"
_LOCK = ".lock"
_HIDDEN = (_LOCK, ".captioning-")  # also what a killed process leaves
# A run can be resumed with other values of these.
_LENGTH = ("training.epochs", "training.max_steps", "training.patience")
_CHANGEABLE = {
    *("output", "resume", "cache", "search_images", "rerank_ngrams", "workers", "device"),
    *(
        "keep_checkpoints",
        "trackers",
        "license",
        "training.save_every",
        "training.log_every",
        *_LENGTH,
    ),
}
_OTHER_START = _CHANGEABLE - {"resume"}
# A new run can continue from a checkpoint with other values of these too.
_NEW_RUN_CHANGEABLE = {
    f"training.{name}"
    for name in (
        *("learning_rate", "warmup_steps", "schedule", "decay_factor", "decay_epochs"),
        *("clip_norm", "label_smoothing", "word_dropout", "scheduled_sampling"),
    )
}


def check_run_directory(config: RunConfig) -> str:
    """Check that the output directory is empty, absent, or holds a run that the config resumes.

    Returns:
        The settings with which the run, or that of ``config.resume``, continues differently.

    Raises:
        TrainingError: The directory holds another run or other files, or is not a directory. Or the
            run of ``config.resume`` has other settings.
    """
    output = config.output
    if (saved := read_settings(output)) is not None:
        changeable = _CHANGEABLE if config.resume in (None, saved.resume) else _OTHER_START
        return _check_settings(saved, config, output, changeable)
    if output.exists() and not output.is_dir():
        raise TrainingError(f"'{output}' is not a directory. Use another output.")
    if output.is_dir() and any(not path.name.startswith(_HIDDEN) for path in output.iterdir()):
        raise TrainingError(
            f"'{output}' is not empty and does not hold a training run. Use another output."
        )
    if config.resume is None:
        return ""
    if (source := read_settings(config.resume)) is None:
        raise TrainingError(
            f"'{config.resume}' holds no training run and no checkpoint of one. Pass the directory "
            "of a run, or one that --keep-checkpoints wrote, such as RUN/checkpoints/epoch-3."
        )
    return _check_settings(source, config, config.resume, _CHANGEABLE | _NEW_RUN_CHANGEABLE)


def list_settings(config: RunConfig) -> dict[str, Any]:
    """Return the settings by names such as ``training.epochs``, as numbers and text."""
    flat = _flatten(_to_json(config))
    return {
        name: value if isinstance(value, int | float | str) else str(value)
        for name, value in flat.items()
    }


def _check_settings(
    before: RunConfig, now: RunConfig, directory: Path, changeable: Set[str]
) -> str:
    """Return the changes of the training, and refuse other changes than those of ``changeable``.

    Raises:
        TrainingError: Another setting differs.
    """
    old, new = _flatten(_to_json(before)), _flatten(_to_json(now))
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if refused := [name for name in changed if name not in changeable]:
        raise TrainingError(
            f"'{directory}' holds a run with other settings: {_describe(refused, old, new)}. These "
            "cannot change. Use the same values to resume the run, or train in another output."
        )
    kept = [name for name in changed if name in {*_LENGTH, *_NEW_RUN_CHANGEABLE}]
    return _describe(kept, old, new)


def _describe(names: Sequence[str], old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    return describe_differences(*({name: flat.get(name) for name in names} for flat in (old, new)))


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the settings by names such as ``training.epochs``."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def read_settings(output: Path) -> RunConfig | None:
    """Return the config of the run in a directory, or None if there is no run.

    Raises:
        TrainingError: The file cannot be read, or is not a config of this version.
    """
    path = output / SETTINGS
    return read_json(path, RunConfig, error=TrainingError) if path.is_file() else None


def write_settings(config: RunConfig, directory: Path) -> None:
    """Write the config into the directory of the run or of a checkpoint."""
    write_atomic(directory / SETTINGS, json.dumps(_to_json(config), indent=2) + "\n")


@contextmanager
def lock_run_directory(output: Path) -> Iterator[None]:
    """Create the directory, and keep other processes from training in it.

    Raises:
        TrainingError: Another process holds the lock.
    """
    output.mkdir(parents=True, exist_ok=True)
    in_use = TrainingError(
        f"another process is training in '{output}'. Wait until it ends, or use another output."
    )
    with lock_output(output / _LOCK, in_use):
        yield


def _to_json(config: RunConfig) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    return settings
