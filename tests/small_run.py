"""A training run that takes seconds, and one that is killed in it."""

from pathlib import Path

from captioning.nn.decoder_config import DecoderOptions
from captioning.nn.encoder import EncoderConfig
from captioning.training import RunConfig, TrainingCallback, TrainingConfig

TINY = Path(__file__).parents[1] / "data" / "tiny"


def config(output, **training):
    settings = {"epochs": 3, "batch_size": 16, "save_every": 3, "warmup_steps": 5, "patience": 0}
    return RunConfig(
        data=(f"coco:{TINY}",),
        output=output,
        encoder=EncoderConfig("timm:test_resnet", weights=None, image_size=64),
        decoder=DecoderOptions(embedding_size=16, hidden_size=16, attention_size=16),
        training=TrainingConfig(**{**settings, **training}),
        min_count=2,
        workers=0,
    )


class Killed(BaseException):
    """Not an Exception: nothing on the way may catch it, as nothing catches SIGKILL."""


def kill_after(batches):
    def on_step(progress):
        if progress.step == batches:
            raise Killed

    return TrainingCallback(on_step=on_step)
