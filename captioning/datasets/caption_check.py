"""Checks of captions before training: suspicious captions, lengths, vocabulary."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile

import numpy as np

from captioning.datasets.findings import Finding, Findings
from captioning.datasets.split import CaptionedImage, CaptionSplit
from captioning.messages import format_count
from captioning.text.tokenizers import Tokenizer, seem_unsplit
from captioning.text.vocabulary import SPECIALS
from captioning.track import OnProgress, track

MIN_COUNTS = (1, 2, 3, 5, 10)
"""Thresholds of the vocabulary that are compared."""
MAX_WORDS = 50
"""Captions with more words are very long. The longest ones of COCO have about 50."""
_UNSPLIT = (
    "data set splits whose captions seem to be one word each (for languages without spaces between "
    "words, use --tokenizer characters)"
)
_UNSPLIT_CHECKED = 1000  # captions
_TEXT_SHOWN = 80  # characters of a caption in an example
_LETTER = re.compile(r"[^\W\d_]")
_MARKUP = re.compile(r"https?://|\bwww\.|</?[a-z][^<>]*>|&(?:[a-z]{2,6}|#\d+);", re.IGNORECASE)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufffd\ud800-\udfff]")


CAPTION_FAULTS: Mapping[str, Callable[[str, Sequence[str]], object]] = {
    "captions of one word": lambda text, words: len(words) == 1,
    "captions without letters": lambda text, words: not _LETTER.search(text),
    "captions with a URL or HTML": lambda text, words: _MARKUP.search(text),
    "captions with control characters, line breaks or �": lambda text, words: _CONTROL.search(text),
    f"captions of more than {MAX_WORDS} words": lambda text, words: len(words) > MAX_WORDS,
}
"""Kinds of suspicious captions: for a caption and its words, a match or True if it is one."""


@dataclass(frozen=True)
class Distribution:
    """Smallest value, median, 95 % quantile and largest value of a set of numbers."""

    min: int
    median: int
    p95: int
    max: int

    @classmethod
    def measure(cls, numbers: Sequence[int]) -> "Distribution":
        """Return the distribution. Each quantile is one of the numbers, without interpolation."""
        quantiles = np.quantile(numbers, [0, 0.5, 0.95, 1], method="inverted_cdf")
        return cls(*map(int, quantiles))


@dataclass(frozen=True)
class SplitCounts:
    """Size of a split.

    Attributes:
        data: Name of the data set.
        split: Name of the split.
        images: Number of usable images.
        captions: Number of their captions.
        captions_per_image: Distribution of their number.
        words: Distribution of the number of words per caption.
    """

    data: str
    split: str
    images: int
    captions: int
    captions_per_image: Distribution
    words: Distribution


@dataclass(frozen=True)
class Coverage:
    """Vocabulary of the words that occur at least ``min_count`` times in the training captions.

    Attributes:
        min_count: Smallest count of a word.
        words: Number of words, without special tokens.
        training: Share of the words in training captions that it covers.
        validation: The same in validation captions; None if there are none.
    """

    min_count: int
    words: int
    training: float
    validation: float | None


class CaptionCheck:
    """Checks the captions of splits, one split after the other.

    Args:
        findings: Receives the suspicious captions.
        tokenizer: Splits captions into words.
    """

    def __init__(self, findings: Findings, tokenizer: Tokenizer) -> None:
        self.findings = findings
        self.tokenizer = tokenizer
        self._words: dict[str, Counter[str]] = {}
        self._texts: Counter[str] = Counter()

    def check(
        self, split: CaptionSplit, name: str, on_progress: OnProgress = lambda done, total: None
    ) -> SplitCounts:
        """Check the captions of a split.

        Args:
            split: The split.
            name: Its name in examples.
            on_progress: Called with the number of checked images and the number of all.
        """
        counts = self._words.setdefault(split.split, Counter())
        lengths: list[int] = []
        first: list[list[str]] = []
        for image in track(split.images, on_progress):
            words = [self.tokenizer.split(caption) for caption in image.captions]
            first += words if len(first) < _UNSPLIT_CHECKED else []
            lengths += map(len, words)
            counts.update(chain.from_iterable(words))
            self._check_image(image, words, name)
        if seem_unsplit(first):
            self.findings.add(_UNSPLIT, f"{name}: {_cut(split.images[0].captions[0])!r}")
        per_image = [len(image.captions) for image in split.images]
        return SplitCounts(
            split.source,
            split.split,
            len(split.images),
            len(lengths),
            Distribution.measure(per_image),
            Distribution.measure(lengths),
        )

    def _check_image(self, image: CaptionedImage, words: Sequence[list[str]], name: str) -> None:
        self._texts.update(set(image.captions))
        seen: set[tuple[str, ...]] = set()
        for caption, caption_words in zip(image.captions, words, strict=True):
            found = {kind: find(caption, caption_words) for kind, find in CAPTION_FAULTS.items()}
            key = tuple(caption_words)
            found["repeated captions of an image"] = key in seen
            seen.add(key)
            for kind, match in found.items():
                if match:
                    start = match.start() if isinstance(match, re.Match) else 0
                    example = f"{name}, {image.path.name}: {_cut(caption, start)!r}"
                    self.findings.add(kind, example)

    def find_shared(self) -> Finding | None:
        """Return the captions that several images have, the most frequent ones first."""
        shared = list(takewhile(lambda pair: pair[1] > 1, self._texts.most_common()))
        examples = [
            f"{_cut(text)!r} ({format_count(count, 'image')})"
            for text, count in shared[: self.findings.shown]
        ]
        if not shared:
            return None
        return Finding("captions shared by several images", len(shared), tuple(examples), False)

    def measure_coverage(self, training: Sequence[str], validation: str) -> tuple[Coverage, ...]:
        """Return the size and coverage of the vocabulary for each threshold.

        Args:
            training: Names of the splits whose words are counted.
            validation: Name of the split whose coverage is measured too.
        """
        counts = sum((self._words.get(split, Counter()) for split in training), Counter[str]())
        for special in SPECIALS:
            counts.pop(special, None)
        other = self._words.get(validation, Counter())
        rows = []
        for min_count in MIN_COUNTS:
            kept = {word for word, count in counts.items() if count >= min_count}
            training_share = _share(counts, kept) or 0.0
            rows.append(Coverage(min_count, len(kept), training_share, _share(other, kept)))
        return tuple(rows)


def _share(counts: Counter[str], kept: set[str]) -> float | None:
    total = counts.total()
    covered = sum(count for word, count in counts.items() if word in kept)
    return covered / total if total else None


def _cut(text: str, start: int = 0) -> str:
    """Return a text cut to a readable length, with the part that begins at ``start``."""
    start = 0 if start < _TEXT_SHOWN // 2 else start - _TEXT_SHOWN // 4
    shown = text[start : start + _TEXT_SHOWN]
    return f"{'…' if start else ''}{shown}{'…' if start + _TEXT_SHOWN < len(text) else ''}"
