"""What a job of several processes does in the tests: runs, and an evaluation.

The tests call :func:`run_all` in one process, and start this file with torchrun.
"""

import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from small_run import TINY, config, fine_tuning, initialize

from captioning.errors import TrainingStoppedError
from captioning.evaluation.evaluate import EvaluationConfig, evaluate
from captioning.processes import is_main_process
from captioning.training.callback import TrainingCallback
from captioning.training.run import train
from captioning.training.training_config import SelfCriticalConfig

STOP_AFTER = 4  # steps


def noisy(output):
    """Every term and every random number of teacher forcing; a last batch of two images."""
    run = config(
        output,
        epochs=1,
        batch_size=18,
        captions_per_image=2,
        accumulation_steps=2,
        word_dropout=0.1,
        scheduled_sampling=0.5,
        doubly_stochastic_weight=0.5,
        ema_decay=0.9,
        log_every=1,
    )
    shape = {"core": "attention", "layers": 3, "dropout": 0.3, "recurrent_dropout": 0.2}
    return replace(run, decoder=replace(run.decoder, **shape))


def memory(output):
    run = config(output, epochs=1, log_every=1)
    return replace(run, decoder=replace(run.decoder, core="memory"))


def self_critical(output, model):
    run = initialize(config(output, epochs=1, batch_size=14, log_every=1), model)
    rewards = SelfCriticalConfig(feature_dropout=0.2, cross_entropy_weight=0.3)
    training = replace(run.training, objective="self_critical", self_critical=rewards)
    return replace(run, training=training)


def augmented(output, model):
    return fine_tuning(model, output, epochs=1, online_augmentation=True, log_every=1)


def stop(run):
    """Stop a run after some steps, in the middle of an epoch, as SIGTERM does."""
    steps = []

    def should_stop():
        steps.append(1)
        return len(steps) == STOP_AFTER and is_main_process()

    with suppress(TrainingStoppedError):
        train(run, TrainingCallback(should_stop=should_stop))
        raise AssertionError("the run did not stop")


def resume(run):
    assert train(run).resumed


def run_all(output, model):
    """Train in folders of ``output``, and evaluate a model."""
    messages = []
    train(noisy(output / "noisy"), TrainingCallback(on_message=messages.append))
    if is_main_process():
        (output / "messages.txt").write_text("\n".join(messages))
    assert is_main_process() == bool(messages)
    for name in ("stopped", "handed_over"):
        stop(noisy(output / name))
    resume(noisy(output / "stopped"))
    if (output / "taken_over").is_dir():
        resume(noisy(output / "taken_over"))
    train(memory(output / "memory"))
    train(self_critical(output / "self_critical", model))
    train(augmented(output / "augmented", model))
    evaluation = EvaluationConfig(output / "captions.json", batch_size=3, workers=0, device="cpu")
    scores = evaluate(model, f"coco:{TINY}", split="val", config=evaluation).scores
    if is_main_process():
        (output / "scores.txt").write_text(repr(dict(scores.values)))


if __name__ == "__main__":
    run_all(Path(sys.argv[1]), Path(sys.argv[2]))
