"""Fit of the n-gram reranker of a trained model."""

from collections.abc import Sequence

import torch

from captioning.errors import DataError
from captioning.features.cache import CacheRows
from captioning.features.cached_model import CachedModel
from captioning.reranking.ngram import NgramReranker
from captioning.text.vocabulary import Vocabulary


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
    """Fit n-gram reranking to the training images, without augmentation.

    Args:
        cached_model: The trained model; its encoder computes the vectors.
        cache: Features of the images.
        captions: Reference captions of each image, as words. Rows after the end of the cache have
            no image and are not used.
        vocabulary: Vocabulary of the decoder.
        max_ngrams: Number of n-grams to keep.
        batch_size: Images per batch.

    Returns:
        The reranker. None if the captions share no n-gram with the vocabulary, or if the decoder
        does not use the image.
    """
    rows = [row for row in cache.readable if any(captions[row])]
    if not rows or cached_model.decoder.config.injection == "none":
        return None
    vectors = torch.cat(
        [
            cached_model.encode(cache, batch).vector.cpu()
            for batch in torch.tensor(rows).split(batch_size)
        ]
    )
    try:
        return NgramReranker.fit(
            vectors, [captions[row] for row in rows], vocabulary, max_ngrams=max_ngrams
        )
    except DataError:  # a finished training run does not fail because of its reranker
        return None
