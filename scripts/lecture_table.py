"""Table of captioners from the literature and of image injections, with equal training settings.

    python scripts/lecture_table.py flickr8k:data/flickr8k --runs runs/lecture
    python scripts/lecture_table.py flickr8k:data/flickr8k --runs runs/lecture --only papers

Each system is trained with three seeds by teacher forcing on cached features of the same frozen
CNN, with the same sizes, epochs and search. The table shows mean and standard deviation over the
seeds: parameters of the decoder, training time in seconds, perplexity of the reference captions of
the training and validation splits, scores of generated captions on the validation split, and the
published scores, where a paper reports them.

If the command is interrupted, run it again to resume. Results are stored in
docs/lecture_table.json. Stored systems are not trained again; ``--seeds 0`` only prints the table.
docs/experiments.md discusses the results.
"""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch

from captioning.checkpoint import load_checkpoint
from captioning.cli import train
from captioning.datasets import read_captions, shorten_spec
from captioning.decoding import BeamSearch, search_to_json
from captioning.evaluation.retrieval import rank_images, reconstruct, retrieval_scores
from captioning.evaluation.search_sweep import sweep
from captioning.evaluation.validation import perplexity
from captioning.features.cache import CacheRows
from captioning.features.cached_model import CachedModel
from captioning.features.extraction import ExtractionConfig, cache_features
from captioning.files import write_atomic
from captioning.inference.captioner import Captioner
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.encoder_config import EncoderConfig
from captioning.nn.injections import INJECTIONS
from captioning.nn.presets import PRESETS, preset
from captioning.text.caption_arrays import CaptionArray, CaptionWords
from captioning.training.config import RunConfig
from captioning.training.precision import select_precision
from captioning.training.training_config import TrainingConfig

ENCODER = EncoderConfig("timm:tf_efficientnet_lite2")
TRAINING = TrainingConfig(
    batch_size=50,
    learning_rate=2e-3,
    ema_decay=0.99,
    patience=0,
    precision=select_precision(torch.device("cpu")),
)
DROPOUT = 0.2  # lower than the default, because the networks are small
SEARCH = BeamSearch(width=5, length_penalty=0.7)
UNTIED = DecoderConfig(tie_weights=False)
SYSTEMS = {
    "papers": {name: preset(name) for name in PRESETS if not preset(name).uses_grid},
    "injections": {
        f"lstm, {injection}": replace(UNTIED, injection=injection)
        for injection in INJECTIONS
        if injection not in ("first_step", "none")  # show-and-tell and language-model
    },
    "cells": {
        f"{cell}, recurrent": replace(UNTIED, cell=cell) for cell in ("rnn", "relu_rnn", "gru")
    },
    "attention": {name: preset(name) for name in PRESETS if preset(name).uses_grid},
}
PUBLISHED = {
    "neuraltalk": "57.9 / 38.3 / 24.5 / 16.0",
    "show-and-tell": "63 / 41 / 27 / -",
    "minds-eye": "- / - / - / 14.1",
    "show-attend-tell": "67 / 44.8 / 29.9 / 19.5",
}
Results = dict[str, dict[str, dict[str, float]]]
"""Measured values by system, seed and name."""
COLUMNS = {
    "parameters": "{:,.0f}",
    "seconds": "{:.0f}",
    "train perplexity": "{:.1f}",
    "perplexity": "{:.1f}",
    "BLEU-1": "{:.1f}",
    "BLEU-2": "{:.1f}",
    "BLEU-3": "{:.1f}",
    "BLEU-4": "{:.1f}",
    "CIDEr": "{:.1f}",
}
RETRIEVAL_COLUMNS = ("R@1", "R@5", "R@10", "median rank")


@dataclass(frozen=True)
class Budget:
    """What all systems share.

    Attributes:
        data: Data set, as ``flickr8k:DIR``.
        runs: Directory of the runs and of the feature cache.
        epochs: Training epochs per run.
        size: Embedding, hidden and attention size.
    """

    data: str
    runs: Path
    epochs: int
    size: int

    def describe(self) -> dict[str, object]:
        """Return the settings that must agree for two runs to share a table.

        The precision is not included, because it depends on the processor. Each run stores its
        number of bits instead.
        """
        training = replace(TRAINING, epochs=self.epochs, precision=TrainingConfig().precision)
        search = search_to_json(SEARCH)
        return {
            "data": shorten_spec(self.data),
            "encoder": ENCODER.name,
            "size": self.size,
            "dropout": DROPOUT,
            "training": select_changed(asdict(training), asdict(TrainingConfig())),
            "search": {
                "method": search["method"],
                **select_changed(search, search_to_json(BeamSearch())),
            },
        }


def create_parser(description: str, results: Path) -> argparse.ArgumentParser:
    """Return a parser with the options of all tables of runs under one training budget."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("data", help="Data set, as flickr8k:DIR.")
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs/lecture"),
        help="Directory of the runs (default: %(default)s).",
    )
    parser.add_argument(
        "--epochs", type=int, default=10, help="Training epochs per run (default: %(default)s)."
    )
    parser.add_argument(
        "--size",
        type=int,
        default=128,
        help="Embedding, hidden and attention size (default: %(default)s).",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=results,
        help="File of results (default: %(default)s).",
    )
    return parser


def main() -> None:
    parser = create_parser(__doc__.splitlines()[0], Path("docs/lecture_table.json"))
    parser.add_argument(
        "--seeds", type=int, default=3, help="Number of runs per system (default: %(default)s)."
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(SYSTEMS),
        default=list(SYSTEMS),
        help="Parts of the table to measure (default: all).",
    )
    arguments = parser.parse_args()
    budget = Budget(arguments.data, arguments.runs, arguments.epochs, arguments.size)
    configs = {name: config for part in arguments.only for name, config in SYSTEMS[part].items()}
    for seed in range(arguments.seeds):  # every system has one result before any has two
        for name, decoder in configs.items():
            results = load_results(arguments.results, budget)
            if str(seed) not in results.setdefault(name, {}):
                config = build_run_config(budget, name, decoder, seed)
                if code := train.run_training(config):
                    sys.exit(code)
                results[name][str(seed)] = measure_run(config)
                save_results(arguments.results, budget, results)
    results = load_results(arguments.results, budget)
    print(
        format_table({name: list(results[name].values()) for name in configs if results.get(name)})
    )


def select_changed(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the values that differ from the defaults."""
    return {name: value for name, value in values.items() if value != defaults[name]}


def load_results(path: Path, budget: Budget) -> Results:
    """Return the stored results; exit if they were measured under another budget."""
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["budget"] != budget.describe():
        sys.exit(f"{path} has results of another budget: {content['budget']}. Change --results.")
    return dict(content["systems"])


def save_results(path: Path, budget: Budget, results: Results) -> None:
    """Write all results atomically."""
    content = {"budget": budget.describe(), "systems": results}
    write_atomic(path, json.dumps(content, indent=1) + "\n")


def build_run_config(budget: Budget, name: str, decoder: DecoderConfig, seed: int) -> RunConfig:
    """Return the config of the run of one system with one seed."""
    sizes = dict.fromkeys(("embedding_size", "hidden_size", "attention_size"), budget.size)
    return RunConfig(
        data=(budget.data,),
        output=budget.runs / f"{name.replace(', ', '-').replace(' ', '_')}-{seed}",
        cache=budget.runs / "features",
        encoder=ENCODER,
        decoder=replace(decoder, **sizes, dropout=DROPOUT),
        training=replace(TRAINING, epochs=budget.epochs, seed=seed),
        search_images=0,  # every system uses SEARCH
    )


def measure_run(config: RunConfig) -> dict[str, float]:
    """Return all measured values of a finished run, by name."""
    assert config.cache is not None
    checkpoint = load_checkpoint(config.output / "model")
    decoder = checkpoint.model.decoder
    scores = sweep(
        Captioner(checkpoint), config.data[0], split="val", searches=[SEARCH], cache=config.cache
    )[SEARCH]
    values = {
        "parameters": float(sum(weight.numel() for weight in decoder.parameters())),
        "seconds": read_seconds(config.output / "log.csv"),
        "bits": 32.0 if config.training.precision == "float32" else 16.0,
        "BLEU-1": 100 * scores.bleu_1,
        "BLEU-2": 100 * scores.bleu_2,
        "BLEU-3": 100 * scores.bleu_3,
        "BLEU-4": 100 * scores.bleu_4,
        "CIDEr": 100 * scores.cider,
    }
    for name, column in (("train", "train perplexity"), ("val", "perplexity")):
        split = read_captions(config.data[0], split=name)
        cache = cache_features(
            checkpoint.model.encoder,
            [image.path for image in split.images],
            config.cache,
            ExtractionConfig(
                grid=decoder.config.uses_grid,
                hflip=name == "train",
                precision=config.training.precision,
            ),
        )
        words = CaptionWords.tokenize(image.captions for image in split.images)
        captions = words.encode(checkpoint.vocabulary)
        values[column] = perplexity(CachedModel(decoder), cache, captions)
        if name == "val" and decoder.config.core == "memory":
            values |= measure_retrieval(decoder, cache, captions)
    return values


def measure_retrieval(
    decoder: Decoder, cache: CacheRows, captions: CaptionArray
) -> dict[str, float]:
    """Rank all images for each caption by the reconstruction of the image vector.

    Args:
        decoder: Decoder with a memory.
        cache: Features of the images.
        captions: Tokens of the captions of each image, ``<eos>`` included.
    """
    vectors = cache.read(torch.arange(len(cache))).mean(1)
    tokens = np.split(captions.ids, captions.caption_starts[1:-1])
    sentences = [own[:-1].tolist() for own in tokens]
    counts = torch.from_numpy(captions.captions_per_image)
    image = torch.arange(len(counts)).repeat_interleave(counts)
    ranks = rank_images(reconstruct(decoder, sentences), vectors, image)
    scores = retrieval_scores(ranks, len(vectors))
    values = (scores.recall_1, scores.recall_5, scores.recall_10)
    percent = [100 * value for value in values]
    return dict(zip(RETRIEVAL_COLUMNS, (*percent, scores.median_rank), strict=True))


def read_seconds(log: Path) -> float:
    """Return the duration of a run from its log, validation included."""
    with log.open(newline="", encoding="utf-8") as file:
        return max(float(row["seconds"]) for row in csv.DictReader(file) if row["seconds"])


def format_table(results: dict[str, list[dict[str, float]]]) -> str:
    """Return the results of all seeds of each system as a Markdown table."""
    lines = [
        "| system | " + " | ".join(COLUMNS) + " | published BLEU-1/2/3/4 |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for name, runs in results.items():
        cells = [format_cell([run[key] for run in runs], form) for key, form in COLUMNS.items()]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {PUBLISHED.get(name, '')} |")
    for name, runs in results.items():
        if "median rank" in runs[0]:
            ranks = [
                f"{key} {format_cell([run[key] for run in runs], '{:.1f}')}"
                for key in RETRIEVAL_COLUMNS
            ]
            lines.append(f"\nImage retrieval with {name}: {', '.join(ranks)}")
    return "\n".join(lines)


def format_cell(values: Sequence[float], form: str) -> str:
    """Return the mean and, unless it rounds to zero, the standard deviation."""
    average = form.format(mean(values))
    deviation = form.format(stdev(values)) if len(values) > 1 else "0"
    return average if float(deviation.replace(",", "")) == 0 else f"{average} ± {deviation}"


if __name__ == "__main__":
    main()
