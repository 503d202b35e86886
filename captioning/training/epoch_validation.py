"""Validation of a model during training: greedy captions of the validation images."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from captioning.decoding import Greedy
from captioning.evaluation.validation import caption_features
from captioning.features.cached_model import CachedModel
from captioning.metrics import score
from captioning.metrics.scores import SCORE_NAMES
from captioning.training.callback import TrainingCallback
from captioning.training.prepare import Prepared


@dataclass(frozen=True)
class ValidatedCaptions:
    """Greedy captions of the validation images by their rows, and their scores."""

    captions: Mapping[int, str]
    scores: dict[str, float]


def validate(
    model: CachedModel, prepared: Prepared, callback: TrainingCallback
) -> ValidatedCaptions:
    """Caption the validation images that can be read, and score the captions."""
    callback.on_phase("Captioning validation images")
    split = prepared.validation
    texts = caption_features(
        model,
        split.cache,
        split.readable,
        prepared.vocabulary,
        Greedy(),
        on_progress=callback.on_progress,
    )
    captions = dict(zip(split.readable, texts, strict=True))
    callback.on_phase("Scoring captions")
    return ValidatedCaptions(captions, _score(captions, prepared))


def report_data_sets(
    validated: ValidatedCaptions, prepared: Prepared, callback: TrainingCallback
) -> None:
    """Report the scores of each data set, if there are several."""
    sources = prepared.validation.sources
    start = 0
    for name, count in sources if len(sources) > 1 else ():
        rows = range(start, start + count)
        own = {row: text for row, text in validated.captions.items() if row in rows}
        callback.on_message(f"  {name}: {format_scores(_score(own, prepared))}")
        start += count


def format_scores(scores: Mapping[str, float]) -> str:
    """Return BLEU-4 and CIDEr times 100, as the tables of scores show them."""
    bleu, cider = scores["BLEU-4"], scores.get("CIDEr", math.nan)
    return f"BLEU-4 {100 * bleu:.2f}, CIDEr {100 * cider:.2f}"


def _score(captions: Mapping[int, str], prepared: Prepared) -> dict[str, float]:
    references = {row: list(prepared.validation.captions[row]) for row in captions}
    scores = score(captions, references, tokenizer=prepared.vocabulary.tokenizer.name)
    return {SCORE_NAMES[name]: value for name, value in scores.values.items()}
