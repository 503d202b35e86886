"""CIDEr-D of sampled captions, the reward of self-critical training."""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from captioning.errors import ScoreError
from captioning.messages import format_count
from captioning.metrics.cider import compare_captions
from captioning.metrics.ngram_frequency import NgramFrequency
from captioning.text.caption_arrays import CaptionArray, CaptionWords, expand_ranges
from captioning.text.ngrams import ImageId, NgramCounts, count_id_ngrams
from captioning.track import OnProgress

Caption = Sequence[Hashable]


class CiderReward:
    """CIDEr-D against stored references, fast enough for every step of training.

    A caption is a list of words, or of token ids if the references are token ids too.

    Rennie et al. (2017), Self-critical sequence training for image captioning.

    Args:
        references: References of each image, as lists of words or token ids. Document frequencies
            are counted over them, so give the references of the whole training split. The key of
            an image in :class:`CaptionWords` is its row; images without captions are left out.
        on_progress: As for :meth:`NgramFrequency.count`.

    Raises:
        ScoreError: There are fewer than two images, or an image of a mapping has no reference.
    """

    def __init__(
        self,
        references: Mapping[ImageId, Sequence[Caption]] | CaptionWords,
        on_progress: OnProgress = lambda done, total: None,
    ) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._rows: dict[Hashable, int] = {}
        if isinstance(references, CaptionWords):
            self._references = references.captions
            self._numbers = {word: number for number, word in enumerate(references.words)}
            captioned = np.flatnonzero(self._references.captions_per_image).tolist()
            self._rows = {row: row for row in captioned}
        else:
            self._rows = {key: row for row, key in enumerate(references)}
            self._references = CaptionArray.from_lists(
                [
                    [self._numbers.setdefault(word, len(self._numbers)) for word in caption]
                    for caption in captions
                ]
                for captions in references.values()
            )
        if len(self._rows) < 2:
            raise ScoreError(
                "CIDEr weighs words by their frequency among images, but there are references for "
                f"{format_count(len(self._rows), 'image')} only. Give those of the whole training "
                "split."
            )
        if not isinstance(references, CaptionWords):
            _check_references(references)
        self._frequency = NgramFrequency.count(self._references, len(self._numbers), on_progress)

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
        if len(images) != len(captions):
            raise ValueError(f"{len(images)} images for {len(captions)} captions")
        rows, image = np.unique([self._row(key) for key in images], return_inverse=True)
        own = self._references.select(rows)
        flat = np.concatenate([self._number(captions), own.ids])
        lengths = np.concatenate([[len(caption) for caption in captions], own.lengths])
        counts = own.captions_per_image[image]
        candidate = np.repeat(np.arange(len(captions)), counts)
        reference = len(captions) + expand_ranges(own.image_starts[image], counts)
        ngrams = count_id_ngrams(flat, lengths)
        starts = np.cumsum(lengths) - lengths
        idf = [self._idf(table, flat, starts, n) for n, table in enumerate(ngrams, 1)]
        values = compare_captions(ngrams, idf, lengths, candidate, reference)
        return np.bincount(candidate, values, len(captions)) / counts

    def _row(self, image: Hashable) -> int:
        row = self._rows.get(image)
        if row is None:
            raise ScoreError(
                f"image {image!r} has no references. Give CiderReward the references of every "
                "image."
            )
        return row

    def _number(self, captions: Sequence[Caption]) -> Int[np.ndarray, " words"]:
        """Return the number of each word. Words that no reference contains get new numbers."""
        new: dict[Hashable, int] = {}
        known = len(self._numbers)
        numbers = [
            self._numbers[word] if word in self._numbers else new.setdefault(word, known + len(new))
            for caption in captions
            for word in caption
        ]
        return np.array(numbers, dtype=np.int64)

    def _idf(
        self,
        table: NgramCounts,
        flat: Int[np.ndarray, " words"],
        starts: Int[np.ndarray, " captions"],
        n: int,
    ) -> Float[np.ndarray, " ngrams"]:
        caption, word = table.first.T
        return self._frequency.idf(flat[(starts[caption] + word)[:, None] + np.arange(n)])


def _check_references(references: Mapping[ImageId, Sequence[Caption]]) -> None:
    empty = [key for key, captions in references.items() if not captions]
    if empty:
        raise ScoreError(
            f"{format_count(len(empty), 'image')} without references (such as {empty[0]!r}). "
            "Remove such images."
        )
