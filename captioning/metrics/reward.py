"""CIDEr-D of sampled captions, fast enough for every step of self-critical training."""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from captioning.errors import ScoreError
from captioning.metrics.cider import SIGMA
from captioning.metrics.ngrams import ORDER

Caption = Sequence[Hashable]
_WORD_BITS = 24


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

    def __init__(self, references: Mapping[Hashable, Sequence[Caption]]) -> None:
        if len(references) < 2:
            raise ScoreError(
                f"CIDEr weighs words by their frequency among images, and {len(references)} "
                "image(s) were given. Give the references of the whole training split."
            )
        empty = [key for key, captions in references.items() if not captions]
        if empty:
            raise ScoreError(f"{len(empty)} images have no reference, such as {empty[0]!r}.")
        self._numbers: dict[Hashable, int] = {}
        numbered = {
            key: [self._number(caption, new=True) for caption in captions]
            for key, captions in references.items()
        }
        images: Counter[int] = Counter()
        for captions in numbered.values():
            images.update({k for caption in captions for keys in _ngrams(caption) for k in keys})
        self._unseen = math.log(len(references))
        self._idf = {ngram: self._unseen - math.log(count) for ngram, count in images.items()}
        self._references = {key: self._cache(captions) for key, captions in numbered.items()}

    def _number(self, caption: Caption, *, new: bool = False) -> list[int]:
        """Return a number above 0 for each word; 0 for a word that no reference holds."""
        if new:
            return [self._numbers.setdefault(word, len(self._numbers) + 1) for word in caption]
        return [self._numbers.get(word, 0) for word in caption]

    def _cache(
        self, captions: Sequence[list[int]]
    ) -> tuple[list[int], dict[int, list[tuple[int, int, float]]]]:
        """Return the references' lengths, and for each n-gram where it weighs how much."""
        places: dict[int, list[tuple[int, int, float]]] = {}
        for i, caption in enumerate(captions):
            for keys in _ngrams(caption):
                counts = Counter(keys)
                square = sum((count * self._idf[key]) ** 2 for key, count in counts.items())
                for key, count in counts.items():
                    if square:
                        # min(g_c, g_r) g_r / |g_r| = min(count_c, count_r) * this
                        weight = count * self._idf[key] ** 2 / math.sqrt(square)
                        places.setdefault(key, []).append((i, count, weight))
        return [max(len(caption) - 1, 0) for caption in captions], places

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
        idf, unseen = self._idf, self._unseen
        sums = [0.0] * len(lengths)
        for keys in _ngrams(self._number(caption)):
            square = 0.0
            shared: list[tuple[int, float]] = []
            for key, count in Counter(keys).items():
                square += (count * idf.get(key, unseen)) ** 2
                for reference, most, weight in places.get(key, ()):
                    shared.append((reference, min(count, most) * weight))
            for reference, value in shared:
                sums[reference] += value / math.sqrt(square)
        length = max(len(caption) - 1, 0)
        total = sum(
            value * math.exp(-((length - other) ** 2) / (2 * SIGMA**2))
            for value, other in zip(sums, lengths, strict=True)
        )
        return 10 * total / (ORDER * len(lengths))


def _ngrams(words: list[int]) -> list[list[int]]:
    """Return the n-grams of 1 to 4 words, each as one integer."""
    keys = [words]
    for n in range(1, ORDER):
        keys.append([key << _WORD_BITS | w for key, w in zip(keys[-1], words[n:], strict=False)])
    return keys
