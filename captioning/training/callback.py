"""What a run tells of how it goes."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a batch.

    Attributes:
        step: Batches done, of ``steps``.
        steps: Batches of all epochs.
        captions_per_second: Captions trained on per second of the epoch so far.
        loss: Mean smoothed loss of the epoch so far, in nats per word.
    """

    step: int
    steps: int
    captions_per_second: float
    loss: float


@dataclass(frozen=True)
class EpochSummary:
    """One epoch.

    Attributes:
        epoch: Its number, from 1.
        step: Batches done since the run began.
        loss: Mean loss of the objective, in nats per word.
        perplexity: exp of the mean negative log-likelihood of the words trained on (people's, or
            sampled ones), with dropout.
        learning_rate: Of its last batch.
        gradient_norm: Mean norm before clipping.
        captions_per_second: Captions trained on per second of it.
        reward: Mean reward of the sampled captions; None for teacher forcing.
    """

    epoch: int
    step: int
    loss: float
    perplexity: float
    learning_rate: float
    gradient_norm: float
    captions_per_second: float
    reward: float | None = None


@dataclass(frozen=True)
class TrainingCallback:
    """Whom a run tells how it goes; each member does nothing by default.

    Attributes:
        on_message: Told a line of text.
        on_encode: Told how many images have been encoded, or read where they are encoded anew each
            time, of how many.
        on_step: Told after each batch where training stands.
        on_resume: Told the batches already done when a run goes on, of how many.
    """

    on_message: Callable[[str], None] = lambda text: None
    on_encode: Callable[[int, int], None] = lambda done, total: None
    on_step: Callable[[Progress], None] = lambda progress: None
    on_resume: Callable[[int, int], None] = lambda done, total: None
