"""Random captions, and the official scorers as an oracle."""

import random
from typing import Any

from captioning.text.tokenizer import tokenize_lines

WORDS = (
    *("a", "the", "dog", "cat", "man's", "hat", "runs", "sits", "on", "in", "grass"),
    *("red", "big", ",", ".", "2", "t-shirt", "can't"),
)


def make_captions(seed: int, images: int, per_image: int = 3) -> tuple[dict, dict]:
    """Return random candidates and references."""
    random_source = random.Random(seed)

    def make_caption(min_length: int) -> str:
        length = random_source.randint(min_length, 12)
        return " ".join(random_source.choice(WORDS) for _ in range(length))

    candidates = {i: make_caption(0) for i in range(images)}
    references = {
        i: [make_caption(1) for _ in range(random_source.randint(1, per_image))]
        for i in range(images)
    }
    return candidates, references


def score_officially(candidates: dict, references: dict) -> dict[str, Any]:
    """Return corpus and per-image scores of the scorer classes of pycocoevalcap."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    ids = list(references)
    words = tokenize_lines([candidates[i] for i in ids])
    results = {i: [" ".join(w)] for i, w in zip(ids, words, strict=True)}
    flat = iter(tokenize_lines([c for i in ids for c in references[i]]))
    truth = {i: [" ".join(next(flat)) for _ in references[i]] for i in ids}
    bleu, bleus = Bleu(4).compute_score(truth, results, verbose=0)
    scores = {f"bleu_{n + 1}": (bleu[n], bleus[n]) for n in range(4)}
    scores["rouge_l"] = Rouge().compute_score(truth, results)
    scores["cider"] = Cider().compute_score(truth, results)
    return scores
