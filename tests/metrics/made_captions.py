"""Captions made up from a few words, and the official scorers as an oracle."""

import random
from typing import Any

from captioning.text.tokenizer import tokenize_lines

WORDS = (
    *("a", "the", "dog", "cat", "man's", "hat", "runs", "sits", "on", "in", "grass"),
    *("red", "big", ",", ".", "2", "t-shirt", "can't"),
)


def captions(seed: int, images: int, per_image: int = 3) -> tuple[dict, dict]:
    """Return candidates and references for ``images`` images."""
    draw = random.Random(seed)

    def caption(least: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(least, 12)))

    candidates = {i: caption(0) for i in range(images)}
    references = {i: [caption(1) for _ in range(draw.randint(1, per_image))] for i in range(images)}
    return candidates, references


def official(candidates: dict, references: dict) -> dict[str, Any]:
    """Return corpus and per-image scores of pycocoevalcap's own classes (which are Python)."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    ids = list(references)
    words = tokenize_lines([candidates[i] for i in ids])
    found = {i: [" ".join(w)] for i, w in zip(ids, words, strict=True)}
    flat = iter(tokenize_lines([c for i in ids for c in references[i]]))
    truth = {i: [" ".join(next(flat)) for _ in references[i]] for i in ids}
    bleu, bleus = Bleu(4).compute_score(truth, found, verbose=0)
    rouge, rouges = Rouge().compute_score(truth, found)
    cider, ciders = Cider().compute_score(truth, found)
    scores = {f"bleu_{n + 1}": (bleu[n], bleus[n]) for n in range(4)}
    return scores | {"rouge_l": (rouge, rouges), "cider": (cider, ciders)}
