"""A model as one directory: config, weights, model card, hub."""

from captioning.checkpoint.checkpoint import Checkpoint
from captioning.checkpoint.load import load_checkpoint
from captioning.checkpoint.model_info import ModelInfo, TrainingInfo
from captioning.checkpoint.save import save_checkpoint

__all__ = ["Checkpoint", "ModelInfo", "TrainingInfo", "load_checkpoint", "save_checkpoint"]
