r"""From a trained model to the model inside the package.

    python scripts/make_default_model.py runs/last/model \
        --data flickr8k:data/flickr8k karpathy:data/everyday/everyday.json@photos

The model learns from the training splits which phrases v makes likely. The search is chosen on the
validation split of the first data set among beam widths, length penalties, rules against repetition
and weights of those phrases; the weights are written with 16 bits, and the card gets the scores of
exactly what is shipped, on each data set. scripts/reproduce_flickr8k.py trains the model, and calls
this.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from captioning.checkpoint import Checkpoint, ModelInfo, load_checkpoint, save_checkpoint
from captioning.datasets import read_captions, shorten_spec
from captioning.decoding import SearchMethod
from captioning.evaluation.search_sweep import (
    best_search,
    candidate_searches,
    card_scores,
    summarize_search,
    sweep,
)
from captioning.features.cache import JoinedCaches
from captioning.features.cached_model import CachedModel
from captioning.features.extraction import ExtractionConfig, cache_features
from captioning.inference.captioner import DEFAULT_MODEL, Captioner
from captioning.metrics import Scores
from captioning.reranking.ngram import DEFAULT_NGRAMS, NgramReranker
from captioning.text.tokenizer import tokenize
from captioning.training.fit_reranker import fit_reranker

LIMITS = (
    "It was trained on a few thousand photos, most of them of people and dogs out of doors. What "
    "is rare there it takes for something common; drawings and text are beyond it. It counts badly "
    "and guesses colours, sexes and relations. Do not use it where a wrong caption does harm, and "
    "do not describe people to others with it unread.",
    "The photos and captions of Flickr8k (Hodosh, Young & Hockenmaier 2013) and the photos of COCO "
    "(Lin et al. 2014) are for research and education; none of them is in this file. COCO's "
    "captions are CC BY 4.0. The encoder's weights began as EfficientNet-Lite2, trained on "
    "ImageNet by Google (Apache-2.0).",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a model's directory")
    parser.add_argument("--data", nargs="+", required=True, help="flickr8k:DIR and others")
    parser.add_argument("--output", type=Path, default=DEFAULT_MODEL)
    arguments = parser.parse_args()
    make_default_model(load_checkpoint(arguments.model), arguments.data, arguments.output)


def make_default_model(made: Checkpoint, data: Sequence[str], output: Path) -> None:
    """Choose a model's search, and write the model as it is shipped."""
    with tempfile.TemporaryDirectory() as folder:  # what is scored is what is shipped: 16 bits
        half = Path(folder) / "model"
        save_checkpoint(made, half, dtype=torch.float16)
        checkpoint = load_checkpoint(half)
        checkpoint = replace(
            checkpoint, reranker=fit_default_reranker(checkpoint, data, Path(folder))
        )

        def tried(name: str, how: Sequence[SearchMethod]) -> dict[SearchMethod, Scores]:
            print(name, flush=True)
            return sweep(
                Captioner(checkpoint),
                name,
                split="val",
                searches=how,
                cache=Path(folder) / "features",
                on_scores=show,
            )

        table = tried(data[0], candidate_searches(checkpoint))
        best = best_search(table)
        print(f"chosen: {best}")
        scores = {data[0]: table[best], **{name: tried(name, [best])[best] for name in data[1:]}}
    info = ModelInfo(
        name="The default captioner: EfficientNet-Lite2 and an attentive LSTM",
        training=checkpoint.info.training,
        scores={
            key: value for name in data for key, value in described(name, scores[name]).items()
        },
        signature=table[best].signature,
        search_chosen=True,
        limits=LIMITS,
    )
    save_checkpoint(replace(checkpoint, search=best, info=info), output, dtype=torch.float16)
    size = sum(path.stat().st_size for path in output.iterdir())
    print(json.dumps({"bytes": size, **info.scores}))


def fit_default_reranker(
    checkpoint: Checkpoint, data: Sequence[str], cache: Path
) -> NgramReranker | None:
    """Learn from the training splits of data sets which phrases a model's v makes likely."""
    splits = [read_captions(name, split="train") for name in data]
    encoder = checkpoint.model.encoder
    caches = [
        cache_features(encoder, [image.path for image in split.images], cache, ExtractionConfig())
        for split in splits
    ]
    words = [[tokenize(c) for c in image.captions] for split in splits for image in split.images]
    cached_model = CachedModel(checkpoint.model.decoder)
    rows = JoinedCaches(caches)
    return fit_reranker(cached_model, rows, words, checkpoint.vocabulary, max_ngrams=DEFAULT_NGRAMS)


def described(data: str, scores: Scores) -> dict[str, float]:
    """Return a data set's scores for the card."""
    return card_scores(scores, f"{shorten_spec(data)} dev, {len(scores)} photos")


def show(how: SearchMethod, scores: Scores) -> None:
    """Print a row of the table."""
    captions = scores.per_image["caption"]
    print(
        f"{summarize_search(how)}: BLEU-1 {scores.bleu_1:.4f} BLEU-4 {scores.bleu_4:.4f} "
        f"ROUGE-L {scores.rouge_l:.4f} CIDEr {scores.cider:.4f}, {captions.nunique()} distinct",
        flush=True,
    )


if __name__ == "__main__":
    main()
