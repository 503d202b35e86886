"""Every captioner of the literature and every way in for the image, under one budget.

    python scripts/lecture_table.py flickr8k:data/flickr8k --runs runs/lecture
    python scripts/lecture_table.py flickr8k:data/flickr8k --runs runs/lecture --only papers

Each system is trained three times, with other seeds, by teacher forcing on cached features of the
same frozen CNN, with the same sizes, epochs and search. Printed are the mean and the standard
deviation over the seeds: parameters of the decoder, seconds of training, perplexity of people's
words on the training and on the validation split, scores of the captions on the latter; then the
figures that the papers gave, where they gave any. Stopped at any moment, the same command goes on
where it was. docs/lecture_table.json has what was measured so far; what it has is not trained
again, and --seeds 0 prints its table. docs/experiments.md says what the table shows.
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

import torch

from captioning.checkpoint import load_checkpoint
from captioning.cli import train
from captioning.datasets import CaptionSplit, read_captions, shorten_spec
from captioning.decoding import BeamSearch, search_to_json
from captioning.evaluation.retrieval import rank_images, reconstruct, retrieval_scores
from captioning.evaluation.search_sweep import sweep
from captioning.evaluation.validation import perplexity
from captioning.features.cache import FeatureCache
from captioning.features.cached_model import CachedModel
from captioning.features.extraction import ExtractionConfig, cache_features
from captioning.files import write_atomic
from captioning.inference.captioner import Captioner
from captioning.nn import Decoder, DecoderConfig, EncoderConfig
from captioning.nn.injections import INJECTIONS
from captioning.nn.presets import PRESETS, preset
from captioning.text.tokenizer import tokenize
from captioning.training import RunConfig, TrainingConfig
from captioning.training.precision import select_precision

ENCODER = EncoderConfig("timm:tf_efficientnet_lite2")
TRAINING = TrainingConfig(
    batch_size=50,
    learning_rate=2e-3,
    ema_decay=0.99,
    patience=0,
    precision=select_precision(torch.device("cpu")),
)
DROPOUT = 0.2  # half of the numbers, our default, is too much for nets as small as these
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
Measured = dict[str, dict[str, dict[str, float]]]
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


@dataclass(frozen=True)
class Budget:
    """What all systems share.

    Attributes:
        data: The data set.
        runs: Where the runs are kept.
        epochs: Epochs of each.
        size: E, H and A.
    """

    data: str
    runs: Path
    epochs: int
    size: int

    @property
    def described(self) -> dict[str, object]:
        """What has to be the same for two runs to stand in one table.

        The precision is not among it, since processors differ: each run has its ``bits``.
        """
        training = replace(TRAINING, epochs=self.epochs, precision=TrainingConfig().precision)
        search = search_to_json(SEARCH)
        return {
            "data": shorten_spec(self.data),
            "encoder": ENCODER.name,
            "size": self.size,
            "dropout": DROPOUT,
            "training": changed(asdict(training), asdict(TrainingConfig())),
            "search": {
                "method": search["method"],
                **changed(search, search_to_json(BeamSearch())),
            },
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="flickr8k:DIR")
    parser.add_argument("--runs", type=Path, default=Path("runs/lecture"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path("docs/lecture_table.json"))
    parser.add_argument("--only", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    arguments = parser.parse_args()
    budget = Budget(arguments.data, arguments.runs, arguments.epochs, arguments.size)
    systems = {name: own for part in arguments.only for name, own in SYSTEMS[part].items()}
    for seed in range(arguments.seeds):  # all systems once before any of them twice
        for name, options in systems.items():
            found = known(arguments.results, budget)
            if str(seed) not in found.setdefault(name, {}):
                found[name][str(seed)] = measured(budget, name, options, seed)
                keep(arguments.results, budget, found)
    found = known(arguments.results, budget)
    print(table({name: list(found[name].values()) for name in systems if found.get(name)}))


def changed(settings: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that are not the defaults."""
    return {name: value for name, value in settings.items() if value != defaults[name]}


def known(path: Path, budget: Budget) -> Measured:
    """Return what was measured so far under this budget: for each system and seed, its numbers."""
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["budget"] != budget.described:
        sys.exit(f"{path} was measured with {content['budget']}; name another file by --results.")
    return dict(content["systems"])


def keep(path: Path, budget: Budget, found: Measured) -> None:
    """Write what was measured so far."""
    content = {"budget": budget.described, "systems": found}
    write_atomic(path, json.dumps(content, indent=1) + "\n")


def measured(budget: Budget, name: str, options: DecoderConfig, seed: int) -> dict[str, float]:
    """Train one system with one seed, and return what it measures."""
    config = settings(budget, name, options, seed)
    if code := train.run(config):
        sys.exit(code)
    return measure(config)


def settings(budget: Budget, name: str, options: DecoderConfig, seed: int) -> RunConfig:
    """Return the settings of the run of one system with one seed."""
    sizes = dict.fromkeys(("embedding_size", "hidden_size", "attention_size"), budget.size)
    return RunConfig(
        data=(budget.data,),
        output=budget.runs / f"{name.replace(', ', '-').replace(' ', '_')}-{seed}",
        cache=budget.runs / "features",
        encoder=ENCODER,
        decoder=replace(options, **sizes, dropout=DROPOUT),
        training=replace(TRAINING, epochs=budget.epochs, seed=seed),
        search_images=0,  # all are searched alike
    )


def measure(config: RunConfig) -> dict[str, float]:
    """Return what a finished run scores."""
    assert config.cache is not None
    checkpoint = load_checkpoint(config.output / "model")
    decoder = checkpoint.model.decoder
    scores = sweep(
        Captioner(checkpoint), config.data[0], split="val", searches=[SEARCH], cache=config.cache
    )[SEARCH]
    numbers = {
        "parameters": float(sum(weight.numel() for weight in decoder.parameters())),
        "seconds": seconds(config.output / "log.csv"),
        "bits": 32.0 if config.training.precision == "float32" else 16.0,
        "BLEU-1": 100 * scores.bleu_1,
        "BLEU-2": 100 * scores.bleu_2,
        "BLEU-3": 100 * scores.bleu_3,
        "BLEU-4": 100 * scores.bleu_4,
        "CIDEr": 100 * scores.cider,
    }
    for split, key in (("train", "train perplexity"), ("val", "perplexity")):
        images = read_captions(config.data[0], split=split)
        cache = cache_features(
            checkpoint.model.encoder,
            [image.path for image in images.images],
            config.cache,
            ExtractionConfig(
                grid=decoder.config.uses_grid,
                hflip=split == "train",
                precision=config.training.precision,
            ),
        )
        vocabulary = checkpoint.vocabulary
        captions = [
            [vocabulary.encode(tokenize(caption)) for caption in image.captions]
            for image in images.images
        ]
        numbers[key] = perplexity(CachedModel(decoder), cache, captions)
        if split == "val" and decoder.config.core == "memory":
            sentences = [tokens[:-1] for own in captions for tokens in own]
            numbers |= retrieval(decoder, cache, sentences, images)
    return numbers


def retrieval(
    decoder: Decoder,
    cache: FeatureCache,
    sentences: Sequence[Sequence[int]],
    split: CaptionSplit,
) -> dict[str, float]:
    """Return how well the images of sentences are found."""
    vectors = cache.read(torch.arange(len(cache))).mean(1)
    counts = torch.tensor([len(image.captions) for image in split.images])
    own = torch.arange(len(counts)).repeat_interleave(counts)
    scores = retrieval_scores(
        rank_images(reconstruct(decoder, sentences), vectors, own), len(vectors)
    )
    return {
        "R@1": 100 * scores.recall_1,
        "R@5": 100 * scores.recall_5,
        "R@10": 100 * scores.recall_10,
        "median rank": scores.median_rank,
    }


def seconds(log: Path) -> float:
    """Return how long a run took, its validation included."""
    with log.open(newline="", encoding="utf-8") as file:
        return max(float(row["seconds"]) for row in csv.DictReader(file) if row["seconds"])


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Return the results in Markdown."""
    lines = [
        "| system | " + " | ".join(COLUMNS) + " | published BLEU-1/2/3/4 |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for name, runs in found.items():
        cells = [cell([run[column] for run in runs], form) for column, form in COLUMNS.items()]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {PUBLISHED.get(name, '')} |")
    for name, runs in found.items():
        if "median rank" in runs[0]:
            ranks = [f"{key} {cell([run[key] for run in runs], '{:.1f}')}" for key in _RETRIEVAL]
            lines.append(f"\n{name} ranks the images of a sentence: {', '.join(ranks)}")
    return "\n".join(lines)


_RETRIEVAL = ("R@1", "R@5", "R@10", "median rank")


def cell(values: Sequence[float], form: str) -> str:
    """Return the mean, and the deviation where there is one to show."""
    middle = form.format(mean(values))
    spread = form.format(stdev(values)) if len(values) > 1 else ""
    return middle if not spread or float(spread.replace(",", "")) == 0 else f"{middle} ± {spread}"


if __name__ == "__main__":
    main()
