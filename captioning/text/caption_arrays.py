"""Captions of many images as arrays.

Lists of strings for the 600,000 captions of COCO take a gigabyte, one array of numbers 30 MB.
"""

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int, Int32

from captioning.text.tokenizer import tokenize
from captioning.text.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class CaptionArray:
    """Captions whose words are numbers, grouped by image.

    Attributes:
        ids: Number of each word, one caption after another.
        caption_starts: Index in ``ids`` of the first word of each caption, then ``len(ids)``.
        image_starts: Index of the first caption of each image, then the number of captions.
    """

    ids: Int32[np.ndarray, " words"]
    caption_starts: Int[np.ndarray, " captions_and_end"]
    image_starts: Int[np.ndarray, " images_and_end"]

    @classmethod
    def from_lists(cls, images: Iterable[Iterable[Sequence[int]]]) -> "CaptionArray":
        """Return the array of the captions of each image, given as lists of numbers."""
        ids, lengths, counts = array("i"), array("i"), array("i")
        for captions in images:
            before = len(lengths)
            for caption in captions:
                ids.extend(caption)
                lengths.append(len(caption))
            counts.append(len(lengths) - before)
        return cls(np.array(ids, np.int32), _to_starts(lengths), _to_starts(counts))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.image_starts) - 1

    @property
    def caption_count(self) -> int:
        """Number of captions."""
        return len(self.caption_starts) - 1

    @property
    def lengths(self) -> Int[np.ndarray, " captions"]:
        """Number of words of each caption."""
        return np.diff(self.caption_starts)

    @property
    def captions_per_image(self) -> Int[np.ndarray, " images"]:
        """Number of captions of each image."""
        return np.diff(self.image_starts)

    def select(self, images: Int[np.ndarray, " images"]) -> "CaptionArray":
        """Return the captions of some images, in the order of their rows."""
        counts = self.captions_per_image[images]
        captions = expand_ranges(self.image_starts[images], counts)
        lengths = self.lengths[captions]
        words = expand_ranges(self.caption_starts[captions], lengths)
        return CaptionArray(self.ids[words], _to_starts(lengths), _to_starts(counts))

    def keep(self, captions: Bool[np.ndarray, " captions"]) -> "CaptionArray":
        """Return a copy with some of the captions. The images stay, even without captions."""
        image = np.repeat(np.arange(len(self)), self.captions_per_image)
        return CaptionArray(
            self.ids[np.repeat(captions, self.lengths)],
            _to_starts(self.lengths[captions]),
            _to_starts(np.bincount(image[captions], minlength=len(self))),
        )

    def cut(self, length: Int[np.ndarray, " captions"]) -> "CaptionArray":
        """Return a copy with the first ``length`` words of each caption."""
        words = expand_ranges(self.caption_starts[:-1], length)
        return CaptionArray(self.ids[words], _to_starts(length), self.image_starts)

    def surround(self, before: Sequence[int], after: Sequence[int]) -> "CaptionArray":
        """Return a copy with the same words inserted before and after each caption."""
        lengths = self.lengths + len(before) + len(after)
        starts = _to_starts(lengths)
        ids = np.empty(starts[-1], np.int32)
        for offset, word in enumerate(before):
            ids[starts[:-1] + offset] = word
        for offset, word in enumerate(after):
            ids[starts[1:] - len(after) + offset] = word
        ids[expand_ranges(starts[:-1] + len(before), self.lengths)] = self.ids
        return CaptionArray(ids, starts, self.image_starts)


@dataclass(frozen=True, eq=False)
class CaptionWords:
    """Tokenized captions of many images.

    Attributes:
        words: All distinct words. The number of a word in ``captions`` is its index.
        captions: The captions.
    """

    words: tuple[str, ...]
    captions: CaptionArray

    @classmethod
    def from_lists(cls, images: Iterable[Iterable[Sequence[str]]]) -> "CaptionWords":
        """Number the words of the captions of each image."""
        numbers: defaultdict[str, int] = defaultdict()
        numbers.default_factory = numbers.__len__
        number = numbers.__getitem__
        captions = CaptionArray.from_lists(
            ([*map(number, caption)] for caption in own) for own in images
        )
        return cls(tuple(numbers), captions)

    @classmethod
    def tokenize(
        cls, images: Iterable[Iterable[str]], split: Callable[[str], list[str]] = tokenize
    ) -> "CaptionWords":
        """Split the captions of each image into words. Captions without words are left out."""
        return cls.from_lists(filter(None, map(split, captions)) for captions in images)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.captions)

    def select(self, images: Int[np.ndarray, " images"]) -> "CaptionWords":
        """Return the captions of some images, in the order of their rows."""
        return replace(self, captions=self.captions.select(images))

    def of_image(self, image: int) -> list[list[str]]:
        """Return the captions of an image as lists of words."""
        captions = self.captions
        first, last = captions.image_starts[image : image + 2]
        starts = captions.caption_starts[first : last + 1].tolist()
        return [
            [self.words[number] for number in captions.ids[start:end].tolist()]
            for start, end in pairwise(starts)
        ]

    def counts(self) -> dict[str, int]:
        """Return the number of occurrences of each word."""
        found = np.bincount(self.captions.ids, minlength=len(self.words))
        return dict(zip(self.words, found.tolist(), strict=True))

    def encode(self, vocabulary: Vocabulary) -> CaptionArray:
        """Return the captions as tokens, from ``<bos>`` to ``<eos>``."""
        tokens = np.array([vocabulary.id(word) for word in self.words], np.int32)
        captions = self.captions
        encoded = CaptionArray(tokens[captions.ids], captions.caption_starts, captions.image_starts)
        return encoded.surround([vocabulary.bos], [vocabulary.eos])

    def append(self, word: str) -> "CaptionWords":
        """Return a copy with a new word at the end of each caption."""
        return CaptionWords((*self.words, word), self.captions.surround([], [len(self.words)]))


def expand_ranges(
    starts: Int[np.ndarray, " ranges"], lengths: Int[np.ndarray, " ranges"]
) -> Int[np.ndarray, " indices"]:
    """Return the indices of all ranges: ``[5, 9], [2, 3]`` gives ``[5, 6, 9, 10, 11]``."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - ends + lengths, lengths)


def _to_starts(lengths: Sequence[int] | np.ndarray) -> Int[np.ndarray, " ranges_and_end"]:
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(np.asarray(lengths), out=starts[1:])
    return starts
