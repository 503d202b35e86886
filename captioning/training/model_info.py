"""What the card of a model tells of the run that made it."""

from captioning.datasets import shorten_spec
from captioning.training.callback import EpochSummary
from captioning.training.config import RunConfig, TrainingConfig
from captioning.training.prepare import Prepared


def describe_run(config: RunConfig, summary: EpochSummary) -> str:
    """Return what a run did, in a few words for the card."""
    training = config.training
    trained = f"the CNN's last {training.fine_tune_stages} stages and the decoder"
    return (
        f"{_objective(training)}, epoch {summary.epoch} of {training.epochs}, "
        f"{trained if training.fine_tune_stages else 'the decoder alone'}"
        f"{', parts of the images drawn anew each time' if training.online_augmentation else ''}"
    )


def _objective(training: TrainingConfig) -> str:
    if training.objective == "cross_entropy":
        return "teacher forcing"
    mixed = training.self_critical
    parts = {"BLEU-4": mixed.bleu_weight, "cross-entropy": mixed.cross_entropy_weight}
    further = (f" and {weight:g} times {name}" for name, weight in parts.items() if weight)
    hidden = mixed.feature_dropout
    seen = f", {hidden:g} of each image's features hidden" if hidden else ""
    return "CIDEr-D as the reward" + "".join(further) + seen


def describe_data(config: RunConfig, prepared: Prepared) -> str:
    """Return the data's name for the card, without the folders of this machine."""
    names = [*map(shorten_spec, config.data)] + (
        [config.text_data.name] if config.text_data else []
    )
    return (
        f"{' + '.join(names)}, split {config.train_split}: "
        f"{len(prepared.train.readable)} images, {len(prepared.dataset)} captions"
    )
