r"""Make the default model of the package from a trained model.

    python scripts/make_default_model.py runs/last/model \
        --data flickr8k:data/flickr8k "coco:captions_{split}.json@photos"

1. Remove words that occur fewer than five times in the captions of images, except concepts. With
   captions without images, a decoder learns words that it never says but computes at every step.
2. Round the weights to 16 bits, so that exactly the shipped weights are scored.
3. Fit the n-gram reranker to the training splits of all data sets.
4. Score all searches on the validation split of each data set, and choose the best one by the mean
   over the data sets.
5. Write the model with these scores.

scripts/reproduce_flickr8k.py trains the model and calls this script.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from captioning.checkpoint import Checkpoint, ModelInfo, load_checkpoint, save_checkpoint
from captioning.datasets import CaptionSplit, read_captions, shorten_spec
from captioning.decoding import SearchMethod
from captioning.errors import DataError
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
from captioning.nn.extend_vocabulary import keep_words
from captioning.nn.model import CaptionModel
from captioning.reranking.ngram import DEFAULT_NGRAMS, NgramReranker
from captioning.text.caption_arrays import CaptionWords
from captioning.text.vocabulary import Vocabulary
from captioning.training.search_choice import fit_reranker

MIN_COUNT = 5

LIMITS = (
    "The model was trained on 9,769 photos. 6,000 show people and dogs outdoors; the others show "
    "everyday scenes: animals, food, rooms, traffic and sport. It mistakes rare subjects for "
    "common ones and does not understand drawings or text in images. It often miscounts, and it "
    'guesses colors, gender and relations between people. For a cup of coffee it says "a toilet", '
    'for a rocket "a clock tower" (docs/examples.md). Do not use it where a wrong caption does '
    "harm, and do not publish descriptions of people without reading them.",
    "The photos and captions of Flickr8k (Hodosh, Young & Hockenmaier 2013), and photos of COCO "
    "(Lin et al. 2014), Flickr30k (Young et al. 2014) and Pascal Sentences (Rashtchian et al. "
    "2010), are for research and education. This directory contains none of them. The captions of "
    "COCO are CC BY 4.0. The encoder was initialized with EfficientNet-Lite2, trained on ImageNet "
    "by Google (Apache-2.0). Words of concepts come from WordNet 3.0 (Princeton University).",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="model directory")
    parser.add_argument("--data", nargs="+", required=True, help="data sets, such as flickr8k:DIR")
    parser.add_argument(
        "--output", type=Path, default=DEFAULT_MODEL, help="model directory to write"
    )
    arguments = parser.parse_args()
    make_default_model(load_checkpoint(arguments.model), arguments.data, arguments.output)


def make_default_model(
    trained: Checkpoint, data: Sequence[str], output: Path, limits: tuple[str, ...] = LIMITS
) -> None:
    """Remove rare words, add a reranker, a search, scores and limits, and write the model."""
    splits = [read_captions(name, split="train") for name in data]
    words = CaptionWords.tokenize(image.captions for split in splits for image in split.images)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_checkpoint(remove_rare_words(trained, words), folder / "model", dtype=torch.float16)
        checkpoint = load_checkpoint(folder / "model")
        checkpoint = replace(
            checkpoint, reranker=fit_default_reranker(checkpoint, splits, words, folder)
        )

        def score_searches(
            spec: str, searches: Sequence[SearchMethod]
        ) -> dict[SearchMethod, Scores]:
            print(spec, flush=True)
            return sweep(
                Captioner(checkpoint),
                spec,
                split="val",
                searches=searches,
                cache=folder / "features",
                on_scores=print_scores,
            )

        searches = candidate_searches(checkpoint)
        tables = [score_searches(spec, searches) for spec in data]
        best = best_search(*tables)
        print(f"chosen: {best}")
        scores = {spec: table[best] for spec, table in zip(data, tables, strict=True)}
    info = ModelInfo(
        name="The default captioner: EfficientNet-Lite2 and an LSTM with attention",
        training=checkpoint.info.training,
        scores={
            name: value
            for spec in data
            for name, value in card_scores(
                scores[spec], f"{shorten_spec(spec)} dev, {len(scores[spec])} photos"
            ).items()
        },
        signature=scores[data[0]].signature,
        search_chosen=True,
        license="apache-2.0",
        limits=limits,
    )
    save_checkpoint(replace(checkpoint, search=best, info=info), output, dtype=torch.float16)
    size = sum(path.stat().st_size for path in output.iterdir())
    print(json.dumps({"bytes": size, **info.scores}))


def remove_rare_words(checkpoint: Checkpoint, captions: CaptionWords) -> Checkpoint:
    """Return a model without the words that are rare in captions and are not concepts."""
    model, vocabulary = checkpoint.model, checkpoint.vocabulary
    frequent = Vocabulary.from_counts(captions.counts(), min_count=MIN_COUNT).words
    concepts = model.decoder.concepts
    named = [] if concepts is None else [vocabulary.words[index] for index in concepts.words]
    needed = {*frequent, *named}
    kept = [index for index, word in enumerate(vocabulary.words) if word in needed]
    print(f"{len(kept)} of {len(vocabulary)} words are kept.")
    words = [vocabulary.words[index] for index in kept]
    return replace(
        checkpoint,
        model=CaptionModel(model.encoder, keep_words(model.decoder, kept)),
        vocabulary=Vocabulary(words, tokenizer=vocabulary.tokenizer.name),
    )


def fit_default_reranker(
    checkpoint: Checkpoint, splits: Sequence[CaptionSplit], words: CaptionWords, cache: Path
) -> NgramReranker | None:
    """Fit an n-gram reranker to the training splits of data sets."""
    encoder = checkpoint.model.encoder
    caches = [
        cache_features(encoder, [image.ref for image in split.images], cache, ExtractionConfig())
        for split in splits
    ]
    cached_model = CachedModel(checkpoint.model.decoder)
    rows = JoinedCaches(caches)
    if rows.unreadable:
        reasons = [*rows.unreadable.values()]
        raise DataError(f"{len(reasons)} images cannot be used, for example: {reasons[0]}")
    return fit_reranker(cached_model, rows, words, checkpoint.vocabulary, max_ngrams=DEFAULT_NGRAMS)


def print_scores(search: SearchMethod, scores: Scores) -> None:
    """Print the scores of one search."""
    captions = scores.per_image["caption"]
    print(
        f"{summarize_search(search)}: BLEU-1 {scores.bleu_1:.4f} BLEU-4 {scores.bleu_4:.4f} "
        f"ROUGE-L {scores.rouge_l:.4f} CIDEr {scores.cider:.4f}, {captions.nunique()} distinct",
        flush=True,
    )


if __name__ == "__main__":
    main()
