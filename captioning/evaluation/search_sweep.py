"""Search sweep: score a split under several searches, and choose the best one for a model."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from captioning.checkpoint import Checkpoint
from captioning.datasets import read_captions
from captioning.decoding import BeamSearch, SearchMethod
from captioning.errors import ConfigError
from captioning.evaluation.evaluate import no_readable_image
from captioning.evaluation.validation import caption_features
from captioning.features.cache import CacheRows
from captioning.features.cached_model import CachedModel
from captioning.features.extraction import ExtractionConfig, cache_features
from captioning.inference.captioner import Captioner
from captioning.metrics import Scores, score
from captioning.metrics.scores import SCORE_NAMES
from captioning.reranking.ngram import NgramReranker
from captioning.text.vocabulary import Vocabulary

_BEAMS = ((1, (0.0,)), (3, (0.7,)), (5, (0.5, 0.7, 0.9)))
CANDIDATE_SEARCHES: tuple[SearchMethod, ...] = tuple(
    BeamSearch(
        width=width, length_penalty=penalty, no_repeat_ngram=ngram, block_repeated_words=ngram > 0
    )
    for width, penalties in _BEAMS
    for penalty in penalties
    for ngram in ((0,) if width < 5 else (0, 2))
)
"""Candidates for every model; docs/experiments.md has their scores for several models."""
RERANKING_SEARCHES: tuple[SearchMethod, ...] = tuple(
    BeamSearch(
        width=8,
        length_penalty=0.5,
        no_repeat_ngram=2,
        block_repeated_words=True,
        rerank_weight=weight,
    )
    for weight in (3.0, 8.0)
)
"""Further candidates for a model with n-gram reranking."""
_ROWS_SHOWN = 10
_MIN_SCORE = 1e-6  # smoothed BLEU of captions without any correct 4-gram is lower


class SearchScores(dict[SearchMethod, Scores]):
    """Scores of each search, displayed as a table of scores times 100."""

    def to_table(self) -> pd.DataFrame:
        """Return a row of scores, between 0 and 1, for each search."""
        rows = [
            {SCORE_NAMES[name]: value for name, value in scores.values.items()}
            for scores in self.values()
        ]
        return pd.DataFrame(rows, index=[repr(method) for method in self])

    def __repr__(self) -> str:
        return (100 * self.to_table()).round(2).to_string(max_rows=_ROWS_SHOWN)

    def _repr_html_(self) -> str:
        """Return the table as HTML for notebooks."""
        return (100 * self.to_table()).round(2).to_html(max_rows=_ROWS_SHOWN)


def sweep(
    captioner: Captioner,
    data: str,
    *,
    split: str,
    searches: Iterable[SearchMethod],
    cache: Path | str,
    workers: int = 2,
    on_scores: Callable[[SearchMethod, Scores], None] = lambda method, scores: None,
) -> SearchScores:
    """Score a split under each of several searches, with one pass of the encoder.

    A search that is chosen by these scores needs another split for an unbiased score.

    Args:
        captioner: One model, without consensus reranking.
        data: Data set, as for :func:`captioning.read_captions`.
        split: ``train``, ``val`` or ``test``.
        searches: The searches.
        cache: Directory of the images' features, kept for later calls.
        workers: Processes that read images.
        on_scores: Called with each search and its scores.

    Returns:
        The scores of each search, over the images that can be read.

    Raises:
        DataError: The split cannot be used, or none of its images can be read.
        ConfigError: The captioner is an ensemble or has consensus reranking, or it does not
            support a search.
    """
    if captioner.others or captioner.consensus is not None:
        raise ConfigError(
            "a sweep needs one model without consensus reranking, found "
            f"{'consensus reranking' if captioner.consensus else 'an ensemble'}. Use evaluate."
        )
    searches = tuple(searches)
    for method in searches:
        captioner.check_search(method)
    images = read_captions(data, split=split).images
    checkpoint = captioner.checkpoint
    features = cache_features(
        checkpoint.model.encoder,
        [image.ref for image in images],
        Path(cache),
        ExtractionConfig(grid=checkpoint.model.decoder.config.uses_grid, workers=workers),
    )
    if not features.readable:
        raise no_readable_image(data, features.unreadable)
    return score_searches(
        CachedModel(checkpoint.model.decoder),
        features,
        {row: images[row].captions for row in features.readable},
        checkpoint.vocabulary,
        searches,
        reranker=checkpoint.reranker,
        on_scores=on_scores,
    )


def score_searches(
    cached_model: CachedModel,
    cache: CacheRows,
    references: Mapping[int, Sequence[str]],
    vocabulary: Vocabulary,
    searches: Iterable[SearchMethod],
    *,
    reranker: NgramReranker | None = None,
    on_scores: Callable[[SearchMethod, Scores], None] = lambda method, scores: None,
) -> SearchScores:
    """Return the scores of the captions that each search finds.

    Args:
        cached_model: The model; its mode is restored after the call.
        cache: Features of the images.
        references: Reference captions of each row of the cache that is scored.
        vocabulary: Vocabulary of the decoder.
        searches: The searches.
        reranker: N-gram reranking of the model; needed by searches with a ``rerank_weight``.
        on_scores: Called with each search and its scores.
    """
    rows = list(references)
    table = SearchScores()
    for method in searches:
        captions = caption_features(
            cached_model, cache, rows, vocabulary, method, reranker=reranker
        )
        table[method] = score(
            dict(zip(rows, captions, strict=True)),
            references,
            tokenizer=vocabulary.tokenizer.name,
        )
        on_scores(method, table[method])
    return table


def select_search(
    checkpoint: Checkpoint,
    cached_model: CachedModel,
    cache: CacheRows,
    references: Mapping[int, Sequence[str]],
    *,
    split_name: str,
    on_message: Callable[[str], None],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Checkpoint:
    """Return a model with the best of the candidate searches, and its scores in the model card.

    If no search finds a caption with a score above zero, the model is returned unchanged.

    Args:
        checkpoint: The model.
        cached_model: The decoder of the model, and the encoder stages that follow the cached ones.
        cache: Features of the images.
        references: Reference captions of each row of the cache that is scored.
        split_name: Name of these images in the model card.
        on_message: Called with one line for each search, and one for the result.
        on_progress: Called with the number of searches scored and the number of all.
    """
    searches = candidate_searches(checkpoint)
    on_progress(0, len(searches))

    def report(method: SearchMethod, scores: Scores) -> None:
        on_progress(searches.index(method) + 1, len(searches))
        bleu, cider = 100 * scores.bleu_4, 100 * (scores.cider or 0.0)
        on_message(f"{summarize_search(method)}: BLEU-4 {bleu:.2f}, CIDEr {cider:.2f}")

    table = score_searches(
        cached_model,
        cache,
        references,
        checkpoint.vocabulary,
        searches,
        reranker=checkpoint.reranker,
        on_scores=report,
    )
    best = best_search(table)
    if _combined_score(table[best]) < _MIN_SCORE:
        on_message("All searches score 0; the model keeps its search.")
        return checkpoint
    on_message(f"Selected search: {summarize_search(best)}.")
    scores = {**checkpoint.info.scores, **card_scores(table[best], split_name)}
    info = replace(checkpoint.info, scores=scores, search_chosen=True)
    return replace(checkpoint, search=best, info=info)


def candidate_searches(checkpoint: Checkpoint) -> tuple[SearchMethod, ...]:
    """Return the searches that :func:`select_search` tries for a model."""
    return CANDIDATE_SEARCHES + (() if checkpoint.reranker is None else RERANKING_SEARCHES)


def best_search(*tables: Mapping[SearchMethod, Scores]) -> SearchMethod:
    """Return the search with the highest sum of CIDEr and BLEU-4, over all tables."""
    return max(
        tables[0], key=lambda method: sum(_combined_score(table[method]) for table in tables)
    )


def _combined_score(scores: Scores) -> float:
    return (scores.cider or 0.0) + scores.bleu_4


def card_scores(scores: Scores, split_name: str) -> dict[str, float]:
    """Return scores for a model card, each with the name of the split."""
    return {
        f"{SCORE_NAMES[key]} ({split_name})": round(value, 4)
        for key, value in scores.values.items()
    }


def summarize_search(method: SearchMethod) -> str:
    """Return the settings in which the candidate searches differ."""
    assert isinstance(method, BeamSearch)
    rule = ", no repeated bigram" if method.no_repeat_ngram == 2 else ""
    weight = f", rerank weight {method.rerank_weight:g}" if method.rerank_weight else ""
    return f"beam {method.width}, length penalty {method.length_penalty:g}{rule}{weight}"
