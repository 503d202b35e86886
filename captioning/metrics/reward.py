"""CIDEr-D of sampled captions, fast enough for every step of self-critical training."""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import repeat

import numpy as np
from jaxtyping import Float

from captioning.errors import ScoreError
from captioning.messages import format_count
from captioning.metrics.cider import SIGMA
from captioning.metrics.ngrams import ORDER, ImageId

Caption = Sequence[Hashable]
_Ngram = tuple[Hashable, ...]
# The lengths of an image's references; for each n-gram its squared idf, and in which reference it
# stands how often with which weight.
_References = tuple[list[int], dict[_Ngram, tuple[float, list[tuple[int, int, float]]]]]


class CiderReward:
    """CIDEr-D against cached references.

    All about the references is computed once. A caption is a list of words, or of token ids where
    the references are lists of token ids too: ids need no turning back into words.

    Rennie et al. (2017), Self-critical sequence training for image captioning.

    Args:
        references: For each image its references, as word or token lists. Document frequencies
            are counted over them: give those of the whole training split.

    Raises:
        ScoreError: There are fewer than two images, or one has no reference.
    """

    def __init__(self, references: Mapping[ImageId, Sequence[Caption]]) -> None:
        if len(references) < 2:
            raise ScoreError(
                "CIDEr weighs words by their frequency among images, and the references are of "
                f"{format_count(len(references), 'image')}. Give those of the whole training split."
            )
        empty = [key for key, captions in references.items() if not captions]
        if empty:
            raise ScoreError(
                f"Without a reference: {format_count(len(empty), 'image')} (such as {empty[0]!r}). "
                "Leave such images out."
            )
        images: Counter[_Ngram] = Counter()
        for captions in references.values():
            images.update({k for caption in captions for keys in _ngrams(caption) for k in keys})
        whole = math.log(len(references))
        self._unseen = whole**2
        self._squares = {ngram: (whole - math.log(count)) ** 2 for ngram, count in images.items()}
        self._references = {key: self._cache(captions) for key, captions in references.items()}

    def _cache(self, captions: Sequence[Caption]) -> _References:
        places: dict[_Ngram, list[tuple[int, int, float]]] = {}
        for i, caption in enumerate(captions):
            for keys in _ngrams(caption):
                counts = Counter(keys)
                square = sum(count**2 * self._squares[key] for key, count in counts.items())
                for key, count in counts.items():
                    # min(g_c, g_r) g_r / |g_r| = min(count_c, count_r) * this
                    weight = count * self._squares[key] / math.sqrt(square) if square else 0.0
                    places.setdefault(key, []).append((i, count, weight))
        lengths = [max(len(caption) - 1, 0) for caption in captions]
        return lengths, {key: (self._squares[key], found) for key, found in places.items()}

    def __call__(
        self, images: Sequence[Hashable], captions: Sequence[Caption]
    ) -> Float[np.ndarray, " captions"]:
        """Return CIDEr-D of each caption against the references of its image.

        Args:
            images: The image of each caption, a key of the references; may repeat.
            captions: Words or token ids, without ``<bos>`` and ``<eos>``.

        Raises:
            ScoreError: An image was not among the references.
        """
        rewards = [
            self._reward(image, caption) for image, caption in zip(images, captions, strict=True)
        ]
        return np.array(rewards, dtype=np.float64)

    def _reward(self, image: Hashable, caption: Caption) -> float:
        if image not in self._references:
            raise ScoreError(
                f"Image {image!r} has no references here. Give CiderReward those of every image."
            )
        lengths, places = self._references[image]
        sums = [0.0] * len(lengths)
        for ngrams in _ngrams(caption):
            square = 0.0
            shared = [0.0] * len(lengths)
            for ngram, count in _counts(ngrams):
                found = places.get(ngram)
                if found is None:
                    square += count * count * self._squares.get(ngram, self._unseen)
                    continue
                square += count * count * found[0]
                for reference, most, weight in found[1]:
                    shared[reference] += weight if count == 1 else min(count, most) * weight
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


def _counts(ngrams: list[_Ngram]) -> Iterable[tuple[_Ngram, int]]:
    """Return each n-gram and its count, quickly where none stands twice."""
    if len(set(ngrams)) == len(ngrams):
        return zip(ngrams, repeat(1))
    return Counter(ngrams).items()
