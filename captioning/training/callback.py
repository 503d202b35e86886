"""What a training run reports, and the callbacks that receive it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from captioning.errors import TrainingStoppedError
from captioning.processes import is_main_process

ENCODING = "Encoding images"
"""Name of the phase that computes the features that are not cached."""
_LONGEST_NUMBER = 8


@dataclass(frozen=True)
class Progress:
    """Position of a run after a step.

    Attributes:
        step: Number of steps done.
        steps: Number of steps in all epochs.
        captions_per_second: Training speed in the current epoch.
        loss: Mean loss of the current epoch, in nats per word.
    """

    step: int
    steps: int
    captions_per_second: float
    loss: float


@dataclass(frozen=True)
class TrainingSummary:
    """Statistics of one epoch, or of a number of steps.

    Attributes:
        epoch: Number of the epoch, from 1.
        step: Number of steps since the start of the run.
        loss: Mean loss, in nats per word.
        perplexity: ``exp`` of the mean negative log-likelihood of the words, with dropout. The
            words are those of the references, or of sampled captions in self-critical training.
        learning_rate: Learning rate of the last step.
        gradient_norm: Mean norm of the gradient before clipping.
        captions_per_second: Training speed.
        data_wait: Share of the time in which the model waited for captions and features.
        reward: Mean reward of the sampled captions. None with cross-entropy.
    """

    epoch: int
    step: int
    loss: float
    perplexity: float
    learning_rate: float
    gradient_norm: float
    captions_per_second: float
    data_wait: float
    reward: float | None = None


@dataclass(frozen=True)
class TrainResult:
    """Result of a training run.

    Attributes:
        model_dir: Model directory of the best epoch.
        best_epoch: Number of the best epoch, from 1. 0: no epoch is better than the initial model.
        best_value: The validation score that selected it.
        scores: All validation scores of its greedy captions, such as ``{"CIDEr": 0.5}``.
        resumed: Whether the run continued from a saved state.
    """

    model_dir: Path
    best_epoch: int
    best_value: float
    scores: dict[str, float] = field(default_factory=dict)
    resumed: bool = False

    def _repr_html_(self) -> str:
        cells = "".join(f"<td>{name} {value:.3f}</td>" for name, value in self.scores.items())
        return f"<table><tr><th>epoch {self.best_epoch}</th>{cells}</tr></table>"


def describe_epoch(summary: TrainingSummary) -> str:
    """Return one line about an epoch."""
    perplexity = f"{summary.perplexity:.1f}"
    if len(perplexity) > _LONGEST_NUMBER:
        perplexity = f"{summary.perplexity:.1e}"
    return (
        f"Epoch {summary.epoch}: training loss {summary.loss:.3f}, perplexity "
        f"{'' if summary.reward is None else 'of sampled captions '}{perplexity}, "
        f"{'' if summary.reward is None else f'reward {summary.reward:.3f}, '}"
        f"{summary.captions_per_second:.0f} captions/s ({summary.data_wait:.0%} of the time "
        "waiting for data)"
    )


@dataclass(frozen=True)
class TrainingCallback:
    """Functions that a run calls as it proceeds. The default of each does nothing.

    Attributes:
        on_message: Called with a line of text for the log.
        on_phase: Called at the start of each phase, with its name, such as ``Encoding images``.
        on_progress: Called with the number of finished items of the phase, such as images, and the
            number of all items. Some phases do not call it.
        on_step: Called after each step.
        on_resume: Called with the number of steps done before, and the number of all steps.
        should_stop: Called after each step and with progress. If it returns True, the run saves its
            state and raises :class:`captioning.errors.TrainingStoppedError`.
    """

    on_message: Callable[[str], None] = lambda text: None
    on_phase: Callable[[str], None] = lambda name: None
    on_progress: Callable[[int, int], None] = lambda done, total: None
    on_step: Callable[[Progress], None] = lambda progress: None
    on_resume: Callable[[int, int], None] = lambda done, total: None
    should_stop: Callable[[], bool] = lambda: False

    def for_process(self) -> "TrainingCallback":
        """Return the callback of this process: only the main process reports.

        Its ``on_progress`` raises TrainingStoppedError if the run should stop.
        """
        callback = self if is_main_process() else TrainingCallback(should_stop=self.should_stop)

        def report(done: int, total: int) -> None:
            if callback.should_stop():
                raise TrainingStoppedError("stopped. Run the same command again to resume.")
            callback.on_progress(done, total)

        return replace(callback, on_progress=report)
