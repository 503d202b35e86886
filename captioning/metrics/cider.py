"""CIDEr-D: cosine similarity of tf-idf n-gram vectors with clipped counts and a length penalty.

Vedantam et al. (2015), CIDEr: consensus-based image description evaluation. "CIDEr" in published
tables is CIDEr-D. For n = 1 to 4, candidate c and reference r of the same image,

    CIDEr-D_n(c, r) = 10 exp(-(l_c - l_r)^2 / (2 sigma^2)) min(g_c, g_r) . g_r / (|g_c| |g_r|)
    g(w) = count of w * (log(images) - log(max(1, images whose references contain w)))

averaged over n and the references, with sigma = 6. g_c is the vector of g(w) over all n-grams w of
c, and l_c is the number of bigrams of c, as in the official scorer.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from captioning.errors import ScoreError
from captioning.json_data import parse_json
from captioning.messages import format_count
from captioning.short_repr import ShortRepr
from captioning.text.caption_arrays import expand_ranges
from captioning.text.ngrams import (
    ORDER,
    ImageId,
    NgramCounts,
    count_ngrams,
    split_at_spaces,
)
from captioning.text.tokenizers import TokenizerName, get_tokenizer

SIGMA = 6.0
_FORMAT = "captioning document frequency 1"


@dataclass(frozen=True)
class _FrequencyFile:
    format: str
    name: str
    images: int
    counts: dict[str, int]


@dataclass(frozen=True, repr=False)
class DocumentFrequency(ShortRepr):
    """For each n-gram, the number of images whose references contain it.

    CIDEr usually counts over the references of the evaluated images, which is unreliable for small
    sets. A table of a large data set gives scores that are comparable with each other, but not
    with scores under another table.
    """

    images: int
    """Number of images."""
    counts: Mapping[tuple[str, ...], int]
    """For each n-gram of 1 to 4 words, the images with at least one reference that contains it."""
    name: str = "custom"
    """Name of the table in the signature of the scores."""

    def __post_init__(self) -> None:
        if self.images < 2:
            raise ScoreError(
                f"a document frequency over {format_count(self.images, 'image')} gives all words "
                "the same weight. Count over the references of at least two images."
            )

    @classmethod
    def build(
        cls,
        references: Mapping[ImageId, Sequence[str | Sequence[str]]],
        *,
        name: str = "custom",
        tokenizer: TokenizerName = "ptb",
    ) -> "DocumentFrequency":
        """Count over the references of each image, given as sentences or lists of words."""
        tokenize = get_tokenizer(tokenizer).split
        captions = [
            split_at_spaces(tokenize(caption)) if isinstance(caption, str) else caption
            for of_image in references.values()
            for caption in of_image
        ]
        image_index = np.repeat(
            np.arange(len(references)), [len(of_image) for of_image in references.values()]
        )
        counts: dict[tuple[str, ...], int] = {}
        for n, table in enumerate(count_ngrams(captions), start=1):
            frequency = _count_images(table, image_index)
            for (caption, word), count in zip(
                table.first.tolist(), frequency.tolist(), strict=True
            ):
                counts[tuple(captions[caption][word : word + n])] = count
        return cls(len(references), counts, name)

    def to_json(self) -> str:
        """Return the table as JSON text; :meth:`from_json` is the inverse."""
        content = {
            "format": _FORMAT,
            "name": self.name,
            "images": self.images,
            "counts": {" ".join(ngram): count for ngram, count in self.counts.items()},
        }
        return json.dumps(content, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, *, source: str) -> "DocumentFrequency":
        """Return the table of a JSON text.

        Args:
            text: Result of :meth:`to_json`.
            source: Name of the file, for messages.

        Raises:
            ScoreError: The text is not a document frequency table.
        """
        content = parse_json(text, _FrequencyFile, source=source, error=ScoreError)
        if content.format != _FORMAT:
            raise ScoreError(
                f"{source}: expected the format {_FORMAT!r}, found {content.format!r:.80}. Write "
                "the file with DocumentFrequency.to_json."
            )
        counts = {tuple(ngram.split(" ")): count for ngram, count in content.counts.items()}
        return cls(content.images, counts, content.name)


def compute_cider_d(
    captions: Sequence[Sequence[str]],
    ngrams: list[NgramCounts],
    image_index: Int[np.ndarray, " captions"],
    image_count: int,
    frequency: DocumentFrequency | None,
) -> Float[np.ndarray, " images"]:
    """Return CIDEr-D of the candidate of each image.

    Args:
        captions: Words of one candidate per image, then of all references.
        ngrams: N-grams of these captions.
        image_index: Index of the image of each caption.
        image_count: Number of images.
        frequency: Document frequencies. None counts them over the references.
    """
    idf = []
    for n, table in enumerate(ngrams, start=1):
        if frequency is None:
            known = _count_images(table, image_index, table.captions >= image_count)
            idf.append(to_idf(known, image_count))
        else:
            idf.append(_look_up_idf(table, captions, n, frequency))
    # Candidate i belongs to image i, so the image of a reference is the index of its candidate.
    image = image_index[image_count:]
    lengths = np.array([len(caption) for caption in captions], dtype=np.int64)
    values = compare_captions(ngrams, idf, lengths, image, np.arange(image_count, len(captions)))
    return np.bincount(image, values, image_count) / np.bincount(image, minlength=image_count)


def compare_captions(
    ngrams: Sequence[NgramCounts],
    idf: Sequence[np.ndarray],
    lengths: Int[np.ndarray, " captions"],
    candidate: Int[np.ndarray, " pairs"],
    reference: Int[np.ndarray, " pairs"],
) -> Float[np.ndarray, " pairs"]:
    """Return CIDEr-D of pairs of captions, averaged over n.

    Args:
        ngrams: N-grams of all captions.
        idf: Inverse document frequency of the n-grams of each table.
        lengths: Number of words of each caption.
        candidate: Index of the candidate of each pair.
        reference: Index of the reference of each pair.
    """
    total = np.zeros(len(candidate))
    for table, own in zip(ngrams, idf, strict=True):
        weights = table.counts * own[table.ngrams]
        total += _clipped_cosines(table, weights, len(lengths), candidate, reference)
    bigrams = np.maximum(lengths - 1, 0)  # the official scorer takes them for the length
    delta = bigrams[candidate] - bigrams[reference]
    return 10 / ORDER * total * np.exp(-(delta**2) / (2 * SIGMA**2))


def to_idf(counts: Int[np.ndarray, " ngrams"], images: int) -> Float[np.ndarray, " ngrams"]:
    """Return the inverse document frequency of n-grams that occur in ``counts`` images."""
    return math.log(images) - np.log(np.maximum(counts, 1))


def _count_images(
    table: NgramCounts,
    image_index: Int[np.ndarray, " captions"],
    rows: np.ndarray | slice = slice(None),
) -> Int[np.ndarray, " ngrams"]:
    """Return the number of images in which each n-gram occurs, counted over ``rows`` of a table."""
    distinct = max(len(table.first), 1)
    pairs = np.unique(image_index[table.captions[rows]] * distinct + table.ngrams[rows])
    return np.bincount(pairs % distinct, minlength=len(table.first))


def _look_up_idf(
    table: NgramCounts, captions: Sequence[Sequence[str]], n: int, frequency: DocumentFrequency
) -> Float[np.ndarray, " ngrams"]:
    known = np.array(
        [
            frequency.counts.get(tuple(captions[caption][word : word + n]), 0)
            for caption, word in table.first.tolist()
        ],
        dtype=np.int64,
    )
    return to_idf(known, frequency.images)


def _clipped_cosines(
    table: NgramCounts,
    weights: Float[np.ndarray, " rows"],
    caption_count: int,
    candidate: Int[np.ndarray, " pairs"],
    reference: Int[np.ndarray, " pairs"],
) -> Float[np.ndarray, " pairs"]:
    """Return the clipped cosine of each pair."""
    norms = np.sqrt(np.bincount(table.captions, weights**2, caption_count))
    distinct = max(len(table.first), 1)
    keys = table.captions * distinct + table.ngrams  # ascending
    if not len(keys):
        return np.zeros(len(candidate))
    counts = np.bincount(table.captions, minlength=caption_count)
    starts = np.cumsum(counts) - counts
    # For each n-gram of each reference, the row of the same n-gram in the candidate.
    rows = expand_ranges(starts[reference], counts[reference])
    pair = np.repeat(np.arange(len(reference)), counts[reference])
    wanted = candidate[pair] * distinct + table.ngrams[rows]
    found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    shared = keys[found] == wanted
    own, other = weights[found[shared]], weights[rows[shared]]
    products = np.bincount(pair[shared], np.minimum(own, other) * other, len(candidate))
    scale = norms[candidate] * norms[reference]
    return np.divide(products, scale, out=np.zeros(len(candidate)), where=scale > 0)
