"""A training run that takes seconds, its variants, and a callback that interrupts it."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

from captioning.checkpoint import load_checkpoint
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.encoder_config import EncoderConfig
from captioning.training.callback import TrainingCallback
from captioning.training.config import RunConfig
from captioning.training.training_config import TrainingConfig

TINY = Path(__file__).parents[1] / "data" / "tiny"


def config(output, **training):
    """Return a run on data/tiny: 10 steps per epoch, 3 epochs, no choice of the search."""
    defaults = {"epochs": 3, "batch_size": 16, "save_every": 3, "warmup_steps": 5, "patience": 0}
    return RunConfig(
        data=(f"coco:{TINY}",),
        output=output,
        encoder=EncoderConfig("timm:test_resnet", weights=None, image_size=64),
        decoder=DecoderConfig(embedding_size=16, hidden_size=16, attention_size=16),
        training=TrainingConfig(**{**defaults, **training}),
        min_count=2,
        search_images=0,
        workers=0,
        device="cpu",
    )


def copy_run(run, output, **changes):
    """Copy a run's directory, and return the run with that output and other changes."""
    shutil.copytree(run.output, output)
    return replace(run, output=output, **changes)


class Killed(BaseException):
    """Not an Exception: like SIGKILL, nothing may catch it."""


def kill_after(steps):
    def on_step(progress):
        if progress.step == steps:
            raise Killed

    return TrainingCallback(on_step=on_step)


def initialize(run, model):
    """Return a run that starts from a model."""
    return replace(run, init_from=model, decoder=DecoderConfig(), encoder=EncoderConfig())


def fine_tuning(model, output, **training):
    defaults = {"fine_tune_stages": 2, "ema_decay": 0.5, "epochs": 2}
    return initialize(config(output, **{**defaults, **training}), model)


def load_weights(model):
    return load_checkpoint(model).model.state_dict()


def read_log(model):
    """Return the rows of a run's log without its times."""
    with (model.parent / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    times = ("seconds", "captions_per_second", "data_wait")
    return [{name: value for name, value in row.items() if name not in times} for row in rows]
