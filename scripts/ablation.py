"""What each choice is worth: one run for each, alike but for that choice, in one table.

    python scripts/ablation.py flickr8k:data/flickr8k --runs runs/ablation
    python scripts/ablation.py flickr8k:data/flickr8k --runs runs/ablation --only soft vector

Every run has the same data, epochs and seed. Those below the first line of the table start from
nothing; ``fine-tuned`` and ``reward`` start from the run ``soft``. Stopped at any moment, the same
command goes on where it was. On two cores a run takes about a quarter of an hour.
"""

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from reproduce_flickr8k import FINE_TUNED, REWARD, TAUGHT

from captioning.captioner import Captioner
from captioning.checkpoint import load_checkpoint
from captioning.commands import train
from captioning.decoding import BeamSearch
from captioning.evaluation import sweep
from captioning.nn import DecoderOptions, EncoderConfig
from captioning.training import RunConfig, TrainingConfig

ENCODER = "timm:tf_efficientnet_lite2"
SOFT = DecoderOptions(attention=True)


@dataclass(frozen=True)
class Variant:
    """A run of the table.

    Attributes:
        decoder: The recurrent net.
        training: How it is trained; ``epochs`` is the command's.
        encoder: The CNN's name.
        start: The run that it starts from.
    """

    decoder: DecoderOptions = SOFT
    training: TrainingConfig = TAUGHT
    encoder: str = ENCODER
    start: str | None = None


VARIANTS = {
    "soft": Variant(),
    "vector": Variant(DecoderOptions()),
    "up-down": Variant(replace(SOFT, top_down=True)),
    "lite0": Variant(encoder="timm:tf_efficientnet_lite0"),
    "lite1": Variant(encoder="timm:tf_efficientnet_lite1"),
    "untied": Variant(replace(SOFT, tie_weights=False)),
    "no dropout": Variant(replace(SOFT, dropout=0.0)),
    "recurrent dropout 0.2": Variant(replace(SOFT, recurrent_dropout=0.2)),
    "no label smoothing": Variant(training=replace(TAUGHT, label_smoothing=0.0)),
    "no averaging": Variant(training=replace(TAUGHT, averaging=0.0)),
    "no mirror": Variant(training=replace(TAUGHT, mirror=False)),
    "word dropout 0.1": Variant(training=replace(TAUGHT, word_dropout=0.1)),
    "scheduled sampling 0.25": Variant(training=replace(TAUGHT, scheduled_sampling=0.25)),
    "doubly stochastic 1": Variant(training=replace(TAUGHT, doubly_stochastic=1.0)),
    "fine-tuned": Variant(training=replace(FINE_TUNED, learning_rate=4e-4), start="soft"),
    "reward": Variant(training=REWARD, start="soft"),
    "reward, fine-tuned": Variant(training=REWARD, start="fine-tuned"),
}
SEARCHES = [BeamSearch(width=1), BeamSearch(width=3), BeamSearch(width=5)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="flickr8k:DIR")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    arguments = parser.parse_args()
    rows = []
    for name in arguments.only:
        config = settings(name, arguments.data, arguments.runs, arguments.epochs)
        if code := train.run(config):
            sys.exit(code)
        rows.append(row(name, config))
    print("| run | search | BLEU-1 | BLEU-4 | ROUGE-L | CIDEr |\n|---|---|---|---|---|---|")
    print("\n".join(rows))


def settings(name: str, data: str, runs: Path, epochs: int) -> RunConfig:
    """Return the settings of one run."""
    variant = VARIANTS[name]
    config = RunConfig(
        data=(data,),
        output=runs / folder(name),
        cache=runs / "features",
        training=replace(variant.training, epochs=epochs),
    )
    if variant.start is not None:
        return replace(config, start=runs / folder(variant.start) / "model")
    return replace(config, encoder=EncoderConfig(variant.encoder), decoder=variant.decoder)


def folder(name: str) -> str:
    """Return the name of a run's folder."""
    return name.replace(",", "").replace(" ", "-")


def row(name: str, config: RunConfig) -> str:
    """Return the lines of the table that a finished run gives."""
    assert config.cache is not None
    captioner = Captioner(load_checkpoint(config.output / "model"))
    table = sweep(captioner, config.data[0], split="val", searches=SEARCHES, cache=config.cache)
    return "\n".join(
        f"| {name} | beam {how.width} | {table[how].bleu_1:.4f} | {table[how].bleu_4:.4f} | "
        f"{table[how].rouge_l:.4f} | {table[how].cider:.4f} |"
        for how in SEARCHES
    )


if __name__ == "__main__":
    main()
