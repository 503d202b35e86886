"""What ``benchmark.py score`` measures: captions scored against five references per image."""

import contextlib
import io
import sys
from collections.abc import Mapping
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np

from benchmarks.prepared import Prepared, time_attributes
from captioning.metrics import CiderReward, scores
from captioning.metrics import score as compute_scores
from captioning.text import tokenizer

Settings = Mapping[str, Any]

_REFERENCES = 5
_REWARDED = 100  # captions of a training step
_WORDS = 2000
_STAGES = ("tokenize_lines", "count_bleu", "compute_bleu", "compute_rouge_l", "compute_cider_d")


def make_captions(settings: Settings) -> tuple[dict[int, str], dict[int, list[str]]]:
    """Return references of a caption file, or random ones; candidates join halves of two of them.

    Images are repeated if the file has fewer than the limit.
    """
    images = (
        _read_images(Path(settings["captions"])) if settings.get("captions") else _draw_images()
    )
    count = settings["limit"]
    references = {i: images[i % len(images)] for i in range(count)}
    candidates = {}
    for i in references:
        head, tail = references[i][0].split(), references[(i + 1) % count][1].split()
        candidates[i] = " ".join(head[: len(head) // 2] + tail[len(tail) // 2 :])
    return candidates, references


def _read_images(path: Path) -> list[list[str]]:
    from metric_parity import read_captions

    images: dict[str, list[str]] = {}
    for image, caption in read_captions(path):
        images.setdefault(image, []).append(caption)
    full = [own[:_REFERENCES] for own in images.values() if len(own) >= _REFERENCES]
    return full or sys.exit(f"benchmark: '{path}' has no image with {_REFERENCES} captions")


def _draw_images(count: int = 1000) -> list[list[str]]:
    rng = np.random.default_rng(0)
    ranks = np.minimum(rng.zipf(1.3, (count, _REFERENCES, 11)), _WORDS)
    words = ["".join(letters) for letters in islice(product(ascii_lowercase, repeat=3), _WORDS + 1)]
    return [[" ".join(words[rank] for rank in caption) for caption in image] for image in ranks]


def score(settings: Settings) -> Prepared:
    """Score with empty caches, like a new process."""
    candidates, references = make_captions(settings)
    stages: dict[str, float] = {}
    time_attributes(scores, _STAGES, stages)
    prepared = Prepared(lambda: None, len(candidates), stages)

    def run() -> None:
        for function in vars(tokenizer).values():
            if hasattr(function, "cache_clear"):
                function.cache_clear()
        prepared.facts["cider"] = compute_scores(candidates, references).cider

    prepared.run = run
    return prepared


def reward(settings: Settings) -> Prepared:
    """Compute the reward of self-critical training for one batch."""
    candidates, references = make_captions(settings)
    cider = CiderReward({i: tokenizer.tokenize_lines(own) for i, own in references.items()})
    images = list(references)[:_REWARDED]
    sampled = [tokenizer.tokenize(candidates[i]) for i in images]
    return Prepared(lambda: cider(images, sampled), len(images))


def pycocoevalcap(settings: Settings) -> Prepared:
    """Score with the official scorer, which needs Java."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    candidates, references = make_captions(settings)
    prepared = Prepared(lambda: None, len(candidates))

    def run() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            words = PTBTokenizer()
            truth = words.tokenize(
                {i: [{"caption": text} for text in own] for i, own in references.items()}
            )
            found = words.tokenize({i: [{"caption": text}] for i, text in candidates.items()})
            Bleu(4).compute_score(truth, found, verbose=0)
            Rouge().compute_score(truth, found)
            prepared.facts["cider"] = float(Cider().compute_score(truth, found)[0])

    prepared.run = run
    return prepared
