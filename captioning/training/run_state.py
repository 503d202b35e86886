"""The saved state of a run, from which it resumes."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from captioning.errors import OutputError, TrainingError
from captioning.text.vocabulary import Vocabulary

_STATE = "state.pt"


@dataclass(frozen=True)
class BestEpoch:
    """The best epoch so far.

    Attributes:
        epoch: Its number, from 1. 0 before the first epoch.
        value: The validation score that selects the epoch.
        scores: All validation scores of its greedy captions.
    """

    epoch: int = 0
    value: float = float("-inf")
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CaptionsId:
    """Identity of the training captions. A run resumes only if it is unchanged.

    Attributes:
        captions: Number of captions.
        words: Size of the vocabulary.
        digest: SHA-256 of the vocabulary.
    """

    captions: int
    words: int
    digest: str

    @classmethod
    def create(cls, captions: int, vocabulary: Vocabulary) -> "CaptionsId":
        """Return the identity of a number of captions and their vocabulary."""
        digest = hashlib.sha256(json.dumps(vocabulary.words).encode()).hexdigest()
        return cls(captions, len(vocabulary.words), digest)

    def __str__(self) -> str:
        return f"{self.captions} captions with {self.words} words"


@dataclass(frozen=True)
class RunState:
    """State of a run after a step.

    Attributes:
        trainer: State of the :class:`captioning.training.trainer.Trainer`.
        captions: The training captions.
        best: The best epoch.
        seconds: Training time of all sessions.
    """

    trainer: dict[str, Any]
    captions: CaptionsId
    best: BestEpoch
    seconds: float


def save_state(state: RunState, output: Path) -> None:
    """Write the state into the run's directory atomically.

    Raises:
        OutputError: It cannot be written. The previous state is unchanged.
    """
    path = output / _STATE
    temporary = path.with_suffix(".tmp")
    parts = {"captions": asdict(state.captions), "best": asdict(state.best)}
    try:
        with temporary.open("wb") as file:
            torch.save({**vars(state), **parts}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError if the disk is full
        temporary.unlink(missing_ok=True)
        raise OutputError(
            f"cannot write '{path}': {error}. The previous state is unchanged. Free some space, "
            "then run the same command again to resume."
        ) from error


def load_state(output: Path, captions: CaptionsId) -> RunState | None:
    """Return the saved state of a run, or None if there is none.

    Raises:
        TrainingError: The state cannot be read, or belongs to other captions.
    """
    path = output / _STATE
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        parts = {
            "captions": CaptionsId(**content["captions"]),
            "best": BestEpoch(**content["best"]),
        }
        state = RunState(**{**content, **parts})
    except Exception as error:  # torch.load raises many kinds of errors for a damaged file
        raise TrainingError(
            f"cannot read '{path}': {error}. Remove this file to start the run again."
        ) from error
    if state.captions != captions:
        # With another vocabulary, words would get each other's weights.
        raise TrainingError(
            f"'{output}' holds a run on other captions: before, {state.captions}; now, {captions}"
            f"{' that differ' if str(state.captions) == str(captions) else ''}. Restore the "
            "captions and images to resume it, or use another output."
        )
    return state
