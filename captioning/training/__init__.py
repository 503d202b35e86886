"""Training: the run, its settings, its log, and what lets it survive being killed."""

from captioning.training.callback import EpochSummary, Progress, TrainingCallback
from captioning.training.config import RunConfig, SelfCriticalConfig, TrainingConfig
from captioning.training.run import train
from captioning.training.trainer import Trainer

__all__ = [
    "EpochSummary",
    "Progress",
    "RunConfig",
    "SelfCriticalConfig",
    "Trainer",
    "TrainingCallback",
    "TrainingConfig",
    "train",
]
