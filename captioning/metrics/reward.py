"""CIDEr-D of sampled captions, the reward of self-critical training."""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from jaxtyping import Float

from captioning.errors import ScoreError
from captioning.messages import format_count
from captioning.metrics.cider import SIGMA
from captioning.text.ngrams import ORDER, ImageId

Caption = Sequence[Hashable]
_Ngram = tuple[Hashable, ...]


@dataclass(frozen=True, slots=True)
class _CachedReferences:
    """The references of one image.

    ``ngrams`` holds for each n-gram its squared idf, and for each reference that contains it the
    index, the count and the weight.
    """

    lengths: list[int]
    ngrams: dict[_Ngram, tuple[float, list[tuple[int, int, float]]]]


class CiderReward:
    """CIDEr-D against cached references, fast enough for every step of training.

    A caption is a list of words, or of token ids if the references are token ids too.

    Rennie et al. (2017), Self-critical sequence training for image captioning.

    Args:
        references: References of each image, as lists of words or token ids. Document frequencies
            are counted over them, so give the references of the whole training split.

    Raises:
        ScoreError: There are fewer than two images, or an image has no reference.
    """

    def __init__(self, references: Mapping[ImageId, Sequence[Caption]]) -> None:
        if len(references) < 2:
            raise ScoreError(
                "CIDEr weighs words by their frequency among images, but there are references for "
                f"{format_count(len(references), 'image')} only. Give those of the whole training "
                "split."
            )
        empty = [key for key, captions in references.items() if not captions]
        if empty:
            raise ScoreError(
                f"{format_count(len(empty), 'image')} without references (such as {empty[0]!r}). "
                "Remove such images."
            )
        images: Counter[_Ngram] = Counter()
        for captions in references.values():
            images.update({k for caption in captions for keys in _ngrams(caption) for k in keys})
        log_images = math.log(len(references))
        self._unseen = log_images**2
        self._squares = {
            ngram: (log_images - math.log(count)) ** 2 for ngram, count in images.items()
        }
        self._references = {key: self._cache(captions) for key, captions in references.items()}

    def _cache(self, captions: Sequence[Caption]) -> _CachedReferences:
        ngrams: dict[_Ngram, list[tuple[int, int, float]]] = {}
        for i, caption in enumerate(captions):
            for keys in _ngrams(caption):
                counts = Counter(keys)
                square = sum(count**2 * self._squares[key] for key, count in counts.items())
                for key, count in counts.items():
                    # With c the candidate, r the reference and g = count * idf (cider.py):
                    # min(g_c, g_r) g_r / |g_r| = min(count_c, count_r) * weight
                    weight = count * self._squares[key] / math.sqrt(square) if square else 0.0
                    ngrams.setdefault(key, []).append((i, count, weight))
        lengths = [max(len(caption) - 1, 0) for caption in captions]
        return _CachedReferences(
            lengths, {key: (self._squares[key], entries) for key, entries in ngrams.items()}
        )

    def __call__(
        self, images: Sequence[Hashable], captions: Sequence[Caption]
    ) -> Float[np.ndarray, " captions"]:
        """Return CIDEr-D of each caption against the references of its image.

        Args:
            images: Image of each caption, a key of the references. May contain repeats.
            captions: Words or token ids, without ``<bos>`` and ``<eos>``.

        Raises:
            ScoreError: An image has no references.
        """
        rewards = [
            self._reward(image, caption) for image, caption in zip(images, captions, strict=True)
        ]
        return np.array(rewards, dtype=np.float64)

    def _reward(self, image: Hashable, caption: Caption) -> float:
        if image not in self._references:
            raise ScoreError(
                f"image {image!r} has no references. Give CiderReward the references of every "
                "image."
            )
        references = self._references[image]
        lengths, places = references.lengths, references.ngrams
        sums = [0.0] * len(lengths)
        for ngrams in _ngrams(caption):
            square = 0.0
            shared = [0.0] * len(lengths)
            for ngram, count in _count(ngrams):
                found = places.get(ngram)
                if found is None:
                    square += count * count * self._squares.get(ngram, self._unseen)
                    continue
                square += count * count * found[0]
                for reference, limit, weight in found[1]:
                    shared[reference] += weight if count == 1 else min(count, limit) * weight
            if square:
                norm = math.sqrt(square)
                sums = [total + value / norm for total, value in zip(sums, shared, strict=True)]
        length = max(len(caption) - 1, 0)
        total = sum(
            value * math.exp(-((length - other) ** 2) / (2 * SIGMA**2))
            for value, other in zip(sums, lengths, strict=True)
        )
        return 10 * total / (ORDER * len(lengths))


def _ngrams(caption: Caption) -> list[list[_Ngram]]:
    """Return the n-grams of 1 to 4 words, a list for each length."""
    tails = [caption[n:] for n in range(ORDER)]
    return [list(zip(*tails[:n], strict=False)) for n in range(1, ORDER + 1)]


def _count(ngrams: list[_Ngram]) -> Iterable[tuple[_Ngram, int]]:
    """Yield each n-gram and its count. A Counter is slower if no n-gram is repeated."""
    if len(set(ngrams)) == len(ngrams):
        return zip(ngrams, repeat(1))
    return Counter(ngrams).items()
