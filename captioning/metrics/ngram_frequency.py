"""Document frequencies of the n-grams of many captions, as sorted arrays."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from captioning.metrics.cider import to_idf
from captioning.text.caption_arrays import CaptionArray
from captioning.text.ngrams import ORDER
from captioning.track import OnProgress

_MISSING = -1


@dataclass(frozen=True, eq=False)
class NgramFrequency:
    """For each n-gram of 1 to 4 words, the number of images whose captions contain it.

    An n-gram is numbered by its position in ``keys``. Its key is the number of its first n - 1
    words times ``word_count``, plus its last word. The 5 million n-grams of COCO take 60 MB; as
    tuples in a dictionary, they take a gigabyte.

    Attributes:
        word_count: Number of distinct words.
        images: Number of images with captions.
        keys: Ascending keys for each n.
        counts: Number of images of each n-gram, for each n.
    """

    word_count: int
    images: int
    keys: tuple[np.ndarray, ...]
    counts: tuple[np.ndarray, ...]

    @classmethod
    def count(
        cls,
        captions: CaptionArray,
        word_count: int,
        on_progress: OnProgress = lambda done, total: None,
    ) -> "NgramFrequency":
        """Count the images of each n-gram.

        Args:
            captions: Captions of each image, as numbers below ``word_count``.
            word_count: Number of distinct words.
            on_progress: Called with the number of finished values of n and the number of all.
        """
        image = np.repeat(np.arange(len(captions)), captions.captions_per_image)
        image = np.repeat(image, captions.lengths)
        ends = np.repeat(captions.caption_starts[1:], captions.lengths)
        start = np.arange(len(captions.ids))
        number = np.zeros(len(start), np.int64)
        keys, counts = [], []
        for n in range(1, ORDER + 1):
            on_progress(n - 1, ORDER)
            inside = start + n <= ends
            start, ends, image, number = (part[inside] for part in (start, ends, image, number))
            key = number * word_count + captions.ids[start + n - 1]
            order = np.argsort(key, kind="stable")  # so the images of an n-gram are ascending
            new = _differs_from_previous(key[order])
            number[order] = np.cumsum(new) - 1
            in_new_image = new | _differs_from_previous(image[order])
            keys.append(key[order][new])
            counts.append(np.add.reduceat(in_new_image, np.flatnonzero(new), dtype=np.int32))
        images = int(np.count_nonzero(captions.captions_per_image))
        return cls(word_count, images, tuple(keys), tuple(counts))

    def idf(self, ngrams: Int[np.ndarray, "ngrams n"]) -> Float[np.ndarray, " ngrams"]:
        """Return the inverse document frequency of n-grams of one length.

        Args:
            ngrams: Numbers of their words. Numbers from ``word_count`` are unknown words.
        """
        number = np.zeros(len(ngrams), np.int64)
        count = np.zeros(len(ngrams), np.int64)
        for words, keys, counts in zip(ngrams.T, self.keys, self.counts, strict=False):
            wanted = np.where(
                (number == _MISSING) | (words >= self.word_count),
                _MISSING,
                number * self.word_count + words,
            )
            found = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
            known = keys[found] == wanted if len(keys) else np.zeros(len(wanted), bool)
            number = np.where(known, found, _MISSING)
            count = np.where(known, counts[found], 0) if len(keys) else np.zeros_like(found)
        return to_idf(count, self.images)


def _differs_from_previous(values: Int[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
    differs = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=differs[1:])
    return differs
