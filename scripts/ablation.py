"""What each choice is worth: runs that are alike but for one choice, in one table.

    python scripts/ablation.py flickr8k:data/flickr8k --runs runs/lecture
    python scripts/ablation.py flickr8k:data/flickr8k --runs runs/lecture --only base lite0 lite1

The first line is the lecture's own formula, an LSTM with W_vh v in the gates of every step, under
the budget of scripts/lecture_table.py, whose runs it shares; so that table says by how much seeds
differ. Each other line changes one thing. ``fine-tuned`` and ``reward`` start from the base in
place of nothing, ``fine-tuned, reward`` from ``fine-tuned``. Stopped at any moment, the same
command goes on where it was. docs/ablation.json has what was measured; --only with no names prints
its table. docs/experiments.md says what the table shows.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lecture_table import SEARCH, SYSTEMS, Budget, keep, known, seconds, settings

from captioning.checkpoint import load_checkpoint
from captioning.cli import train
from captioning.evaluation.search_sweep import sweep
from captioning.inference.captioner import Captioner
from captioning.nn import DecoderConfig, EncoderConfig
from captioning.training import RunConfig, SelfCriticalConfig

BASE = "lstm, recurrent"
WIDTHS = (1, 3, 5)


@dataclass(frozen=True)
class Choice:
    """How a run differs from the base.

    Attributes:
        decoder: Settings of the recurrent net that differ.
        training: Settings of the training that differ.
        encoder: The CNN's name, where it is another.
        start: The choice whose model the run starts from.
    """

    decoder: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    encoder: str | None = None
    start: str | None = None


_FINE_TUNED = {
    "fine_tune_stages": 2,
    "encoder_lr_scale": 0.25,
    "captions_per_image": 5,
    "batch_size": 128,
    "learning_rate": 4e-4,
    "epochs": 3,
}
_REWARD = {
    "objective": "self_critical",
    "batch_size": 160,
    "captions_per_image": 5,
    "learning_rate": 2e-4,
    "warmup_steps": 50,
    "ema_decay": 0.98,
    "epochs": 3,
}
CHOICES = {
    "base": Choice(),
    "lite0": Choice(encoder="timm:tf_efficientnet_lite0"),
    "lite1": Choice(encoder="timm:tf_efficientnet_lite1"),
    "soft attention": Choice({"core": "attention"}),
    "up-down attention": Choice({"core": "top_down"}),
    "soft attention, doubly stochastic": Choice(
        {"core": "attention"}, {"doubly_stochastic_weight": 1.0}
    ),
    "soft attention, no dropout": Choice({"core": "attention", "dropout": 0.0}),
    "word beside the state": Choice({"readout": "deep"}),
    "tied weights": Choice({"tie_weights": True}),
    "two layers": Choice({"layers": 2}),
    "size 256": Choice(dict.fromkeys(("embedding_size", "hidden_size", "attention_size"), 256)),
    "no dropout": Choice({"dropout": 0.0}),
    "dropout 0.5": Choice({"dropout": 0.5}),
    "recurrent dropout 0.2": Choice({"recurrent_dropout": 0.2}),
    "no label smoothing": Choice(training={"label_smoothing": 0.0}),
    "no averaging": Choice(training={"ema_decay": 0.0}),
    "no mirror": Choice(training={"hflip": False}),
    "word dropout 0.1": Choice(training={"word_dropout": 0.1}),
    "scheduled sampling 0.25": Choice(training={"scheduled_sampling": 0.25}),
    "fine-tuned": Choice(training=_FINE_TUNED, start="base"),
    "reward": Choice(training=_REWARD, start="base"),
    "reward, features hidden": Choice(
        training={**_REWARD, "self_critical": SelfCriticalConfig(feature_dropout=0.3)},
        start="base",
    ),
    "fine-tuned, reward": Choice(training=_REWARD, start="fine-tuned"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="flickr8k:DIR")
    parser.add_argument("--runs", type=Path, default=Path("runs/lecture"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("docs/ablation.json"))
    parser.add_argument("--only", nargs="*", choices=list(CHOICES), default=list(CHOICES))
    arguments = parser.parse_args()
    budget = Budget(arguments.data, arguments.runs, arguments.epochs, arguments.size)
    seed = str(arguments.seed)
    for name in arguments.only:
        found = known(arguments.results, budget)
        if seed not in found.setdefault(name, {}):
            numbers = measured(run_of(name, budget, arguments.seed))
            found = known(arguments.results, budget)  # another process may have added its own
            found.setdefault(name, {})[seed] = numbers
            keep(arguments.results, budget, found)
    print(table(known(arguments.results, budget), seed))


def run_of(name: str, budget: Budget, seed: int) -> RunConfig:
    """Return the settings of the run of one choice."""
    choice = CHOICES[name]
    shape = SYSTEMS["injections"][BASE]
    base = settings(budget, BASE if name == "base" else f"ablation {name}", shape, seed)
    training = replace(base.training, **choice.training)
    if choice.start is not None:
        start = run_of(choice.start, budget, seed).output / "model"
        started = replace(base, encoder=EncoderConfig(), decoder=DecoderConfig())
        return replace(started, init_from=start, training=training)
    encoder = base.encoder if choice.encoder is None else EncoderConfig(choice.encoder)
    decoder = replace(base.decoder, **choice.decoder)
    return replace(base, encoder=encoder, decoder=decoder, training=training)


def measured(config: RunConfig) -> dict[str, float]:
    """Train, and return the scores of each width of the beam."""
    assert config.cache is not None
    if code := train.run(config):
        sys.exit(code)
    captioner = Captioner(load_checkpoint(config.output / "model"))
    searches = {width: replace(SEARCH, width=width) for width in WIDTHS}
    scores = sweep(
        captioner, config.data[0], split="val", searches=searches.values(), cache=config.cache
    )
    numbers = {"seconds": seconds(config.output / "log.csv")}
    for width, search in searches.items():
        numbers[f"BLEU-4, beam {width}"] = 100 * scores[search].bleu_4
        numbers[f"CIDEr, beam {width}"] = 100 * scores[search].cider
    return numbers


def table(found: Mapping[str, Mapping[str, Mapping[str, float]]], seed: str) -> str:
    """Return the scores of one seed in Markdown."""
    columns = [f"{score}, beam {width}" for score in ("BLEU-4", "CIDEr") for width in WIDTHS]
    lines = [f"| choice | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name in CHOICES:
        if numbers := found.get(name, {}).get(seed):
            cells = " | ".join(f"{numbers[column]:.1f}" for column in columns)
            lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
