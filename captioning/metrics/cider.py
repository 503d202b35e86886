"""CIDEr-D: cosine of tf-idf n-gram vectors, with counts clipped and lengths compared.

Vedantam et al. (2015), CIDEr: consensus-based image description evaluation. "CIDEr" in published
tables is CIDEr-D: for n = 1 to 4, candidate c and reference r of the same image,

    CIDEr-D_n(c, r) = 10 exp(-(l_c - l_r)^2 / (2 sigma^2)) min(g_c, g_r) . g_r / (|g_c| |g_r|)
    g(w) = count of w * (log(images) - log(max(1, images whose references hold w)))

averaged over n and the references, with sigma = 6.
"""

import gzip
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from captioning.errors import ScoreError
from captioning.messages import format_count
from captioning.metrics.ngrams import (
    ORDER,
    ImageId,
    NgramCounts,
    count_ngrams,
    split_at_blanks,
)
from captioning.text.tokenizer import tokenize

SIGMA = 6.0
_FORMAT = "captioning document frequency 1"


@dataclass(frozen=True)
class DocumentFrequency:
    """In how many images' references each n-gram stands: what makes a word worth its weight.

    CIDEr usually takes it from the evaluated references themselves. For a small set that is
    arbitrary; a fixed table from a large set (COCO's, say) gives scores that can be compared, but
    only with scores under the same table.
    """

    images: int
    """Images counted."""
    counts: Mapping[tuple[str, ...], int]
    """For each n-gram of 1 to 4 words, the images of which a reference holds it."""
    name: str = "custom"
    """Stands in the signature."""

    def __post_init__(self) -> None:
        if self.images < 2:
            raise ScoreError(
                f"A document frequency over {format_count(self.images, 'image')} weighs every word "
                "alike. Count it over the references of many images."
            )

    @classmethod
    def build(
        cls, references: Mapping[ImageId, Sequence[str | Sequence[str]]], *, name: str = "custom"
    ) -> "DocumentFrequency":
        """Count over the captions of each image, each a sentence or the list of its words."""
        captions = [
            split_at_blanks(tokenize(caption)) if isinstance(caption, str) else caption
            for of_image in references.values()
            for caption in of_image
        ]
        image = np.repeat(
            np.arange(len(references)), [len(of_image) for of_image in references.values()]
        )
        counts: dict[tuple[str, ...], int] = {}
        for n, table in enumerate(count_ngrams(captions), start=1):
            frequency = document_frequency(table, image)
            for (caption, word), count in zip(
                table.first.tolist(), frequency.tolist(), strict=True
            ):
                counts[tuple(captions[caption][word : word + n])] = count
        return cls(len(references), counts, name)

    def save(self, path: Path | str) -> None:
        """Write the table as JSON, compressed where the name ends in ``.gz``."""
        path = Path(path)
        content = {
            "format": _FORMAT,
            "name": self.name,
            "images": self.images,
            "counts": {" ".join(ngram): count for ngram, count in self.counts.items()},
        }
        text = json.dumps(content, ensure_ascii=False).encode()
        path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)

    @classmethod
    def load(cls, path: Path | str) -> "DocumentFrequency":
        """Read what :meth:`save` wrote.

        Raises:
            ScoreError: The file is no such table.
        """
        path = Path(path)
        try:
            raw = path.read_bytes()
            content = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
            if content["format"] != _FORMAT:
                raise ValueError(f"its format is {content['format']!r}, not {_FORMAT!r}")
            counts = {tuple(ngram.split(" ")): int(n) for ngram, n in content["counts"].items()}
            return cls(int(content["images"]), counts, str(content["name"]))
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ScoreError(
                f"{path} cannot be read as a document frequency file: {error}. "
                "Write one with DocumentFrequency.build(references).save(path)."
            ) from error


def document_frequency(
    table: NgramCounts, image: Int[np.ndarray, " captions"]
) -> Int[np.ndarray, " ngrams"]:
    """Return in how many images' captions each n-gram of ``table`` stands."""
    distinct = max(len(table.first), 1)
    pairs = np.unique(image[table.captions] * distinct + table.ngrams)
    return np.bincount(pairs % distinct, minlength=len(table.first))


def cider_d(
    captions: Sequence[Sequence[str]],
    ngrams: list[NgramCounts],
    image: Int[np.ndarray, " captions"],
    images: int,
    frequency: DocumentFrequency | None,
) -> Float[np.ndarray, " images"]:
    """Return CIDEr-D of each image's candidate.

    Args:
        captions: First one candidate for each image, then all references.
        ngrams: Their n-grams.
        image: The place of the image that each caption belongs to.
        images: How many images there are.
        frequency: A fixed table, or None to count over the references.
    """
    lengths = np.array([max(len(caption) - 1, 0) for caption in captions])  # bigrams, officially
    total = np.zeros(len(captions))
    for n, table in enumerate(ngrams, start=1):
        if frequency is None:
            idf = _idf_of_references(table, image, images)
        else:
            idf = _idf_of_table(table, captions, n, frequency)
        total += _cosines(table, table.counts * idf[table.ngrams], image, images)
    delta = lengths - lengths[image]
    total *= np.exp(-(delta**2) / (2 * SIGMA**2))
    of = image[images:]
    sums = np.bincount(of, total[images:], images)
    return 10 * sums / (ORDER * np.bincount(of, minlength=images))


def _idf_of_references(
    table: NgramCounts, image: Int[np.ndarray, " captions"], images: int
) -> Float[np.ndarray, " ngrams"]:
    reference = table.captions >= images
    distinct = max(len(table.first), 1)
    pairs = np.unique(image[table.captions[reference]] * distinct + table.ngrams[reference])
    known = np.bincount(pairs % distinct, minlength=len(table.first))
    return math.log(images) - np.log(np.maximum(known, 1))


def _idf_of_table(
    table: NgramCounts, captions: Sequence[Sequence[str]], n: int, frequency: DocumentFrequency
) -> Float[np.ndarray, " ngrams"]:
    known = np.array(
        [
            frequency.counts.get(tuple(captions[caption][word : word + n]), 0)
            for caption, word in table.first.tolist()
        ],
        dtype=np.int64,
    )
    return math.log(frequency.images) - np.log(np.maximum(known, 1))


def _cosines(
    table: NgramCounts,
    weights: Float[np.ndarray, " rows"],
    image: Int[np.ndarray, " captions"],
    images: int,
) -> Float[np.ndarray, " captions"]:
    """Return the clipped cosine of each caption with the candidate of its image."""
    norms = np.sqrt(np.bincount(table.captions, weights**2, len(image)))
    distinct = max(len(table.first), 1)
    key = image[table.captions] * distinct + table.ngrams
    of_candidate = table.captions < images
    keys = key[of_candidate]
    if not len(keys):
        return np.zeros(len(image))
    place = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
    both = keys[place] == key
    candidate, reference = weights[of_candidate][place[both]], weights[both]
    clipped = np.minimum(candidate, reference) * reference
    products = np.bincount(table.captions[both], clipped, len(image))
    scale = norms * norms[image]
    return np.divide(products, scale, out=np.zeros(len(image)), where=scale > 0)
