"""The search that suits a model: the one whose captions of held-out images score best."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch

from captioning.checkpoint.checkpoint import Checkpoint
from captioning.decoding import BeamSearch, SearchMethod
from captioning.errors import DataError
from captioning.evaluation.validation import caption_features
from captioning.features.cache import CacheRows
from captioning.features.cached_model import CachedModel
from captioning.metrics import Scores, score
from captioning.metrics.scores import SCORE_NAMES
from captioning.reranking.ngram import NgramReranker
from captioning.text.vocabulary import Vocabulary

_BEAMS = ((1, (0.0,)), (3, (0.7,)), (5, (0.5, 0.7, 0.9)))
SEARCHES: tuple[SearchMethod, ...] = tuple(
    BeamSearch(
        width=width, length_penalty=penalty, no_repeat_ngram=blocked, no_double_word=blocked > 0
    )
    for width, penalties in _BEAMS
    for penalty in penalties
    for blocked in ((0,) if width < 5 else (0, 2))
)
"""What is chosen from: docs/experiments.md has what each gave models of several kinds."""
RERANKED_SEARCHES: tuple[SearchMethod, ...] = tuple(
    BeamSearch(
        width=8, length_penalty=0.5, no_repeat_ngram=2, no_double_word=True, rerank_weight=weight
    )
    for weight in (3.0, 5.0)
)
"""Further candidates for a model with n-gram reranking."""
_NOTHING = 1e-6  # BLEU's smoothing gives less than this where no four words are right


def try_searches(
    cached_model: CachedModel,
    cache: CacheRows,
    references: Mapping[int, Sequence[str]],
    vocabulary: Vocabulary,
    *,
    reranker: NgramReranker | None = None,
    searches: Iterable[SearchMethod] = SEARCHES,
    watch: Callable[[SearchMethod, Scores], None] = lambda how, scores: None,
) -> dict[SearchMethod, Scores]:
    """Return the scores of the captions that each search finds.

    Args:
        cached_model: Put into evaluation mode meanwhile.
        cache: Features of the images.
        references: What people said about the image in each row that counts.
        vocabulary: The decoder's words.
        reranker: N-gram reranking of the model; needed by searches with a ``rerank_weight``.
        searches: What to try.
        watch: Told each search and its scores as they are found.
    """
    places, table = list(references), {}
    for how in searches:
        captions = caption_features(cached_model, cache, places, vocabulary, how, reranker=reranker)
        table[how] = score(dict(zip(places, captions, strict=True)), references)
        watch(how, table[how])
    return table


def best_search(table: Mapping[SearchMethod, Scores]) -> SearchMethod:
    """Return the search whose captions score best, by the sum of CIDEr and BLEU-4."""
    return max(table, key=lambda how: (table[how].cider or 0.0) + table[how].bleu_4)


def for_card(scores: Scores, name: str) -> dict[str, float]:
    """Return scores for the card, of the images that are called ``name`` there."""
    return {f"{SCORE_NAMES[key]} ({name})": round(value, 4) for key, value in scores.values.items()}


@torch.inference_mode()
def fit_reranker(
    cached_model: CachedModel,
    cache: CacheRows,
    captions: Sequence[Sequence[Sequence[str]]],
    vocabulary: Vocabulary,
    *,
    max_ngrams: int,
    batch_size: int = 64,
) -> NgramReranker | None:
    """Return what a model's v makes likely, learned from images as they are.

    Args:
        cached_model: Its eyes are the model's.
        cache: Features of the images.
        captions: What people said of each, as words; any beyond the cache's end have no image.
        vocabulary: The decoder's words.
        max_ngrams: Number of n-grams to keep.
        batch_size: Images that are looked at together.

    Returns:
        The regression. None if the captions share no n-gram with the vocabulary, or if the decoder
        does not see the image.
    """
    places = [place for place in cache.readable if any(captions[place])]
    if not places or cached_model.decoder.config.injection == "none":
        return None
    rows = torch.tensor(places).split(batch_size)
    vectors = torch.cat([cached_model.encode(cache, some).vector.cpu() for some in rows])
    said = [captions[place] for place in places]
    try:
        return NgramReranker.fit(vectors, said, vocabulary, max_ngrams=max_ngrams)
    except DataError:  # a run that is over does not fail for this
        return None


def with_best_search(
    checkpoint: Checkpoint,
    cached_model: CachedModel,
    cache: CacheRows,
    references: Mapping[int, Sequence[str]],
    *,
    name: str,
    say: Callable[[str], None],
) -> Checkpoint:
    """Return a model with the search that suits it, and with the scores of that in its card.

    Where no caption scores at all, it is returned as it is.

    Args:
        checkpoint: The model.
        cached_model: The same weights, before the cache.
        cache: Features of the images.
        references: What people said about the image in each row that counts.
        name: What the images are called in the card.
        say: Told a line about each search.
    """

    def tell(how: SearchMethod, scores: Scores) -> None:
        say(f"{in_few_words(how)}: BLEU-4 {scores.bleu_4:.3f}, CIDEr {scores.cider or 0.0:.3f}")

    table = try_searches(
        cached_model,
        cache,
        references,
        checkpoint.vocabulary,
        reranker=checkpoint.reranker,
        searches=searches_for(checkpoint),
        watch=tell,
    )
    best = best_search(table)
    if table[best].bleu_4 + (table[best].cider or 0.0) < _NOTHING:
        say("No search finds a caption that scores, so the model's own stays as it is.")
        return checkpoint
    say(f"The model's own search is now {in_few_words(best)}.")
    scores = {**checkpoint.info.scores, **for_card(table[best], name)}
    info = replace(checkpoint.info, scores=scores, search_chosen=True)
    return replace(checkpoint, search=best, info=info)


def searches_for(checkpoint: Checkpoint) -> tuple[SearchMethod, ...]:
    """Return what a model's search is chosen from."""
    return SEARCHES if checkpoint.reranker is None else SEARCHES + RERANKED_SEARCHES


def in_few_words(how: SearchMethod) -> str:
    """Return the settings that the searches to choose from differ in."""
    assert isinstance(how, BeamSearch)
    blocked = ", no pair of words twice" if how.no_repeat_ngram == 2 else ""
    phrases = f", phrase weight {how.rerank_weight:g}" if how.rerank_weight else ""
    return f"beam {how.width}, length penalty {how.length_penalty:g}{blocked}{phrases}"
