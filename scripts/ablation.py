"""Ablation table: runs that differ from a base run in one setting.

    python scripts/ablation.py flickr8k:data/flickr8k --runs runs/lecture
    python scripts/ablation.py flickr8k:data/flickr8k --runs runs/lecture --only base lite0 lite1

The base is an LSTM with W_vh v in the gates of every step, with the sizes and epochs of
scripts/lecture_table.py, whose table also has the base and its standard deviation over seeds.
``fine-tuned`` and ``reward`` are initialized from the base, ``fine-tuned, reward`` from
``fine-tuned``.

If the command is interrupted, run it again to resume. Results are stored in docs/ablation.json;
``--only`` without names only prints the table. docs/experiments.md discusses the results.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lecture_table import (
    SEARCH,
    SYSTEMS,
    Budget,
    Results,
    build_run_config,
    create_parser,
    load_results,
    read_seconds,
    save_results,
)

from captioning.checkpoint import load_checkpoint
from captioning.cli import train
from captioning.evaluation.search_sweep import sweep
from captioning.inference.captioner import Captioner
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.encoder_config import EncoderConfig
from captioning.training.config import RunConfig
from captioning.training.training_config import SelfCriticalConfig

BASE = "lstm, recurrent"
WIDTHS = (1, 3, 5)


@dataclass(frozen=True)
class Choice:
    """Difference of a run from the base.

    Attributes:
        decoder: Changed fields of the decoder config.
        training: Changed fields of the training config.
        encoder: Name of another encoder.
        init_from: Choice whose model initializes the run.
    """

    decoder: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    encoder: str | None = None
    init_from: str | None = None


FINE_TUNED = {
    "fine_tune_stages": 2,
    "encoder_lr_scale": 0.25,
    "captions_per_image": 5,
    "batch_size": 128,
    "learning_rate": 4e-4,
    "epochs": 3,
}
REWARD = {
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
    "deep output": Choice({"readout": "deep"}),
    "tied weights": Choice({"tie_weights": True}),
    "two layers": Choice({"layers": 2}),
    "size 256": Choice(dict.fromkeys(("embedding_size", "hidden_size", "attention_size"), 256)),
    "no dropout": Choice({"dropout": 0.0}),
    "dropout 0.5": Choice({"dropout": 0.5}),
    "recurrent dropout 0.2": Choice({"recurrent_dropout": 0.2}),
    "no label smoothing": Choice(training={"label_smoothing": 0.0}),
    "no EMA": Choice(training={"ema_decay": 0.0}),
    "no hflip": Choice(training={"hflip": False}),
    "word dropout 0.1": Choice(training={"word_dropout": 0.1}),
    "scheduled sampling 0.25": Choice(training={"scheduled_sampling": 0.25}),
    "fine-tuned": Choice(training=FINE_TUNED, init_from="base"),
    "reward": Choice(training=REWARD, init_from="base"),
    "reward, feature dropout": Choice(
        training={**REWARD, "self_critical": SelfCriticalConfig(feature_dropout=0.3)},
        init_from="base",
    ),
    "fine-tuned, reward": Choice(training=REWARD, init_from="fine-tuned"),
}


def main() -> None:
    parser = create_parser(__doc__.splitlines()[0], Path("docs/ablation.json"))
    parser.add_argument("--seed", type=int, default=0, help="Random seed (default: %(default)s).")
    parser.add_argument(
        "--only",
        nargs="*",
        choices=list(CHOICES),
        default=list(CHOICES),
        help="Choices to measure (default: all).",
    )
    arguments = parser.parse_args()
    budget = Budget(arguments.data, arguments.runs, arguments.epochs, arguments.size)
    seed = str(arguments.seed)
    for name in arguments.only:
        if seed not in load_results(arguments.results, budget).get(name, {}):
            scores = measure_run(build_choice_config(name, budget, arguments.seed))
            # Loaded again, because another process may have added results.
            results = load_results(arguments.results, budget)
            results.setdefault(name, {})[seed] = scores
            save_results(arguments.results, budget, results)
    print(format_table(load_results(arguments.results, budget), seed))


def build_choice_config(name: str, budget: Budget, seed: int) -> RunConfig:
    """Return the config of the run of one choice."""
    choice = CHOICES[name]
    run_name = BASE if name == "base" else f"ablation {name}"
    base = build_run_config(budget, run_name, SYSTEMS["injections"][BASE], seed)
    training = replace(base.training, **choice.training)
    if choice.init_from is not None:
        init_from = build_choice_config(choice.init_from, budget, seed).output / "model"
        # A run with ``init_from`` takes encoder and decoder from that model.
        defaults = replace(base, encoder=EncoderConfig(), decoder=DecoderConfig())
        return replace(defaults, init_from=init_from, training=training)
    encoder = base.encoder if choice.encoder is None else EncoderConfig(choice.encoder)
    decoder = replace(base.decoder, **choice.decoder)
    return replace(base, encoder=encoder, decoder=decoder, training=training)


def measure_run(config: RunConfig) -> dict[str, float]:
    """Train a model and return its scores for each beam width."""
    assert config.cache is not None
    if code := train.run_training(config):
        sys.exit(code)
    captioner = Captioner(load_checkpoint(config.output / "model"))
    searches = {width: replace(SEARCH, width=width) for width in WIDTHS}
    scores = sweep(
        captioner, config.data[0], split="val", searches=searches.values(), cache=config.cache
    )
    values = {"seconds": read_seconds(config.output / "log.csv")}
    for width, search in searches.items():
        values[f"BLEU-4, beam {width}"] = 100 * scores[search].bleu_4
        values[f"CIDEr, beam {width}"] = 100 * scores[search].cider
    return values


def format_table(results: Results, seed: str) -> str:
    """Return the scores of one seed as a Markdown table."""
    columns = [f"{score}, beam {width}" for score in ("BLEU-4", "CIDEr") for width in WIDTHS]
    lines = [f"| choice | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name in CHOICES:
        if scores := results.get(name, {}).get(seed):
            cells = " | ".join(f"{scores[column]:.1f}" for column in columns)
            lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
