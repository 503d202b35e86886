"""Checkpoints of a run: directories with the model and the state after an epoch.

A checkpoint is a model directory that also holds ``state.pt`` and ``settings.json``, so that it can
caption images, and that another run can start from it.
"""

import shutil
from pathlib import Path

from captioning.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from captioning.errors import CaptioningError, OutputError
from captioning.messages import explain_error
from captioning.training.config import RunConfig
from captioning.training.run_directory import write_settings
from captioning.training.run_state import BestEpoch, RunState, save_state

_FOLDER, _NAME = "checkpoints", "epoch-"
MODEL = "model"
"""Name of the model directory of a run."""
LAST_MODEL = "last"
"""Name of the directory of the last epoch's model, if the initial model is the result."""


def keep_checkpoint(checkpoint: Checkpoint, state: RunState, config: RunConfig, epoch: int) -> None:
    """Write the checkpoint of an epoch, and remove those that ``keep_checkpoints`` does not keep.

    A directory has its name only while it is complete, also if the process is killed.

    Raises:
        OutputError: The checkpoint cannot be written.
    """
    folder = config.output / _FOLDER
    temporary = folder / f".{_NAME}{epoch}"
    try:
        _remove_incomplete(folder)
        save_checkpoint(checkpoint, temporary)
        save_state(state, temporary)
        write_settings(config, temporary)
        _remove(folder / f"{_NAME}{epoch}")  # written before an interruption
        temporary.rename(folder / f"{_NAME}{epoch}")
        # Later epochs are those of an earlier run here, whose state was removed.
        done = [path for path in _list_checkpoints(folder) if int(_epoch_of(path)) <= epoch]
        for old in done[: -config.keep_checkpoints]:
            _remove(old)
    except OSError as error:
        raise OutputError(
            f"cannot write the checkpoint of epoch {epoch}: {explain_error(error)}. Free some "
            "space, then run the same command again to resume."
        ) from error


def load_best(source: Path, best: BestEpoch) -> Checkpoint | None:
    """Return the model of the best epoch of the run that a checkpoint or run directory belongs to.

    Returns:
        The model; None if it was removed or replaced by that of a later epoch.
    """
    run = _run_of(source)
    wanted = {name: round(value, 4) for name, value in best.scores.items()}
    for path in (run / MODEL, run / _FOLDER / f"{_NAME}{best.epoch}", source):
        try:
            checkpoint = load_checkpoint(path)
        except CaptioningError:
            continue
        scores = checkpoint.info.scores.items()
        if {name.split()[0]: value for name, value in scores if "(greedy," in name} == wanted:
            return checkpoint
    return None


def copy_logs(source: Path, output: Path) -> None:
    """Copy the log of the run that a checkpoint or run directory belongs to, if it has one."""
    run = _run_of(source)
    for name in ("log.csv", "samples.html"):
        if (run / name).is_file():
            shutil.copyfile(run / name, output / name)


def _run_of(source: Path) -> Path:
    return source.parent.parent if source.parent.name == _FOLDER else source


def _list_checkpoints(folder: Path) -> list[Path]:
    found = [path for path in folder.glob(f"{_NAME}*") if _epoch_of(path).isdecimal()]
    return sorted(found, key=lambda path: int(_epoch_of(path)))


def _epoch_of(path: Path) -> str:
    return path.name.removeprefix(_NAME)


def _remove(path: Path) -> None:
    if path.exists():
        hidden = path.with_name(f".{path.name}-old")
        shutil.rmtree(hidden, ignore_errors=True)
        path.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def _remove_incomplete(folder: Path) -> None:
    for path in folder.glob(f".{_NAME}*"):
        shutil.rmtree(path, ignore_errors=True)
