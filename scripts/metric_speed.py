"""Benchmark the scores against pycocoevalcap. Needs Java and the extra ``java-metrics``.

    python scripts/metric_speed.py Flickr8k.token.txt

Both score the same captions in one process: tokenization, BLEU-1 to -4, ROUGE-L and CIDEr-D of
5,000 images with 5 references each (images are repeated if the file has fewer). This package
starts each round with empty caches, like a new process. A second benchmark is the reward of
self-critical training: CIDEr-D of 100 captions against cached references. The last line is JSON.
"""

import argparse
import contextlib
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from metric_parity import read_captions

from captioning.metrics import CiderReward, score
from captioning.text import tokenizer

IMAGES, REFERENCES = 5000, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("captions", type=Path, help="a caption file with 5 captions per image")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    candidates, references = load_captions(args.captions)

    def score_ours() -> float:
        tokenizer._split_chunk.cache_clear()
        tokenizer._split_last_chunk.cache_clear()
        return score(candidates, references).cider

    both = {"ours": score_ours, "pycocoevalcap": lambda: score_officially(candidates, references)}
    values = {name: run() for name, run in both.items()}  # warm-up; both must agree
    times = {name: [] for name in both}
    for _ in range(args.rounds):
        for name, run in both.items():
            times[name].append(measure_seconds(run))
    report = {name: summarize(name, measured, "s", 1) for name, measured in times.items()}

    words = {i: tokenizer.tokenize_lines(captions) for i, captions in references.items()}
    reward = CiderReward(words)
    images = list(references)[:100]
    sampled = [tokenizer.tokenize(candidates[i]) for i in images]
    rewards = [measure_seconds(lambda: reward(images, sampled)) for _ in range(50)][5:]
    report["reward_of_100_captions"] = summarize("reward", rewards, "ms", 1000)

    ratio = report["pycocoevalcap"]["median"] / report["ours"]["median"]
    print(f"Speedup: {ratio:.1f}; difference of CIDEr: "
          f"{abs(values['ours'] - values['pycocoevalcap']):.1e}")  # fmt: skip
    print(json.dumps({"images": IMAGES, "references": REFERENCES, "times_faster": ratio} | report))


def load_captions(path: Path) -> tuple[dict[int, str], dict[int, list[str]]]:
    """Return references, and candidates that join the halves of two references."""
    images: dict[str, list[str]] = {}
    for image, caption in read_captions(path):
        images.setdefault(image, []).append(caption)
    full = [captions[:REFERENCES] for captions in images.values() if len(captions) >= REFERENCES]
    references = {i: full[i % len(full)] for i in range(IMAGES)}
    candidates = {}
    for i in references:
        head, tail = references[i][0].split(), references[(i + 1) % IMAGES][1].split()
        candidates[i] = " ".join(head[: len(head) // 2] + tail[len(tail) // 2 :])
    return candidates, references


def score_officially(candidates: dict[int, str], references: dict[int, list[str]]) -> float:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    with contextlib.redirect_stdout(io.StringIO()):
        words = PTBTokenizer()
        truth = words.tokenize({i: [{"caption": c} for c in cs] for i, cs in references.items()})
        found = words.tokenize({i: [{"caption": c}] for i, c in candidates.items()})
        Bleu(4).compute_score(truth, found, verbose=0)
        Rouge().compute_score(truth, found)
        return float(Cider().compute_score(truth, found)[0])


def measure_seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def summarize(name: str, times: list[float], unit: str, scale: float) -> dict[str, float]:
    median, low, high = statistics.median(times), min(times), max(times)
    print(f"{name:<14} median {scale * median:.3f} {unit}, "
          f"{scale * low:.3f} to {scale * high:.3f} in {len(times)} rounds")  # fmt: skip
    return {"median": median, "min": low, "max": high}


if __name__ == "__main__":
    main()
