"""Training: configs, preparation, loop, objectives, run directory, and log."""

from captioning.training.callback import EpochSummary, Progress, TrainingCallback
from captioning.training.config import RunConfig, SelfCriticalConfig, TrainingConfig
from captioning.training.run import TrainResult, train
from captioning.training.trainer import Trainer

__all__ = [
    "EpochSummary",
    "Progress",
    "RunConfig",
    "SelfCriticalConfig",
    "TrainResult",
    "Trainer",
    "TrainingCallback",
    "TrainingConfig",
    "train",
]
