"""Validation of a model during training: greedy captions of the validation images."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from captioning.decoding import Greedy
from captioning.evaluation.validation import IMAGES_PER_BATCH, caption_features
from captioning.features.cached_model import CachedModel
from captioning.messages import format_count
from captioning.metrics import score
from captioning.metrics.diversity import Diversity, measure_diversity
from captioning.metrics.scores import SCORE_NAMES
from captioning.processes import fail_together, merge_shares, share_batches
from captioning.training.callback import TrainingCallback
from captioning.training.prepare import Prepared


@dataclass(frozen=True)
class ValidatedCaptions:
    """Greedy captions of validation images.

    Attributes:
        captions: Caption of each image, by its row in the validation data.
        scores: Scores of the captions.
        diversity: Counts of distinct captions and words.
    """

    captions: Mapping[int, str]
    scores: dict[str, float]
    diversity: Diversity

    @property
    def log_values(self) -> dict[str, float]:
        """Values of a row of the log."""
        diversity = self.diversity
        return {
            **self.scores,
            "distinct_captions": diversity.distinct / diversity.captions,
            "words_used": diversity.vocabulary,
            "mean_length": diversity.mean_length,
        }

    def __str__(self) -> str:
        diversity = self.diversity
        return (
            f"{format_scores(self.scores)}; {format_count(diversity.vocabulary, 'word')} used, "
            f"{diversity.distinct / diversity.captions:.0%} of captions distinct, mean length "
            f"{diversity.mean_length:.1f}"
        )


def validate(
    model: CachedModel, prepared: Prepared, callback: TrainingCallback
) -> ValidatedCaptions:
    """Caption the validation images that can be read, and score the captions.

    Each process captions some batches of images, and gets the captions of all.
    """
    callback.on_phase("Captioning validation images")
    split = prepared.validation
    rows = share_batches(split.readable, IMAGES_PER_BATCH)
    with fail_together():
        texts = caption_features(
            model,
            split.cache,
            rows,
            prepared.vocabulary,
            Greedy(),
            on_progress=callback.on_progress,
        )
    captions = merge_shares(dict(zip(rows, texts, strict=True)), split.readable)
    callback.on_phase("Scoring captions")
    return _validated(captions, prepared)


def report_data_sets(
    validated: ValidatedCaptions, prepared: Prepared, callback: TrainingCallback
) -> None:
    """Report the scores of each data set, if there are several."""
    sources = prepared.validation.sources
    start = 0
    for name, count in sources if len(sources) > 1 else ():
        rows = range(start, start + count)
        own = {row: text for row, text in validated.captions.items() if row in rows}
        callback.on_message(f"  {name}: {_validated(own, prepared)}")
        start += count


def format_scores(scores: Mapping[str, float]) -> str:
    """Return BLEU-4 and CIDEr times 100, as the tables of scores show them."""
    bleu, cider = scores["BLEU-4"], scores.get("CIDEr", math.nan)
    return f"BLEU-4 {100 * bleu:.2f}, CIDEr {100 * cider:.2f}"


def _validated(captions: Mapping[int, str], prepared: Prepared) -> ValidatedCaptions:
    references = {row: list(prepared.validation.captions[row]) for row in captions}
    tokenizer = prepared.vocabulary.tokenizer.name
    scores = score(captions, references, tokenizer=tokenizer)
    named = {SCORE_NAMES[name]: value for name, value in scores.values.items()}
    return ValidatedCaptions(captions, named, measure_diversity(captions, tokenizer=tokenizer))
