"""Targets of the n-gram regression: tf-idf vectors of the captions of each image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from captioning.text.caption_arrays import CaptionWords
from captioning.text.ngrams import ORDER, count_id_ngrams
from captioning.text.vocabulary import SPECIALS, Vocabulary

NO_WORD = 0
"""Id of ``<pad>``, which no caption contains: fills the rows of n-grams shorter than four words."""


@dataclass(frozen=True)
class NgramTargets:
    """Regression targets: for each image, the mean u_n over its captions, for one n.

    Attributes:
        n: Number of words of the n-grams.
        captions: The captions of all images.
        first: For each n-gram, a caption and the index of the word at which the n-gram begins.
        idf: Inverse document frequency of each n-gram.
        images: Image of each nonzero entry, in ascending order.
        ngrams: N-gram of each entry.
        values: Value of each entry.
    """

    n: int
    captions: CaptionWords
    first: Int[np.ndarray, "distinct 2"]
    idf: Float[np.ndarray, " distinct"]
    images: Int[np.ndarray, " entries"]
    ngrams: Int[np.ndarray, " entries"]
    values: Float[np.ndarray, " entries"]

    @property
    def mass(self) -> Float[np.ndarray, " distinct"]:
        """Sum of each n-gram over all images; infinite if its idf is below 1.

        Such an n-gram has small tf-idf values. It has to be kept all the same, because captions
        would otherwise get the idf of unseen n-grams for it.
        """
        mass = np.bincount(self.ngrams, self.values, minlength=len(self.idf))
        return np.where(self.idf < 1, np.inf, mass)

    def words(self, ngram: int) -> list[str]:
        """Return the words of an n-gram."""
        caption, word = self.first[ngram]
        start = self.captions.captions.caption_starts[caption] + word
        ids = self.captions.captions.ids[start : start + self.n]
        return [self.captions.words[number] for number in ids.tolist()]

    def tokens(
        self, rows: Int[np.ndarray, " ngrams"], vocabulary: Vocabulary
    ) -> Int[Tensor, "ngrams 4"]:
        """Return the word ids of some n-grams, padded with 0."""
        padding = [NO_WORD] * (ORDER - self.n)
        table = [[*map(vocabulary.id, self.words(ngram)), *padding] for ngram in rows.tolist()]
        return torch.tensor(table, dtype=torch.long).reshape(-1, ORDER)

    def select(
        self, rows: Int[np.ndarray, " ngrams"], start: int, count: int
    ) -> Float[Tensor, "ngrams N"]:
        """Return the values of some n-grams in ``count`` images from ``start``, sparse."""
        row_of = np.full(len(self.idf), -1)
        row_of[rows] = np.arange(len(rows))
        first, last = np.searchsorted(self.images, [start, start + count])
        own = row_of[self.ngrams[first:last]]
        kept = own >= 0
        indices = np.stack([own[kept], self.images[first:last][kept] - start])
        return torch.sparse_coo_tensor(
            torch.from_numpy(indices),
            torch.from_numpy(self.values[first:last][kept]),
            (len(rows), count),
            check_invariants=True,
        )


def build_targets(captions: CaptionWords) -> list[NgramTargets]:
    """Return the targets for n-grams of one to four words. Each image needs a caption."""
    said = captions.captions
    sizes = said.captions_per_image
    owner = np.repeat(np.arange(len(said)), sizes)
    targets = []
    for n, table in enumerate(count_id_ngrams(said.ids, said.lengths), 1):
        distinct = len(table.first)
        image = owner[table.captions]
        pairs = np.unique(image * max(distinct, 1) + table.ngrams)
        document_counts = np.bincount(pairs % max(distinct, 1), minlength=distinct)
        idf = np.log(len(captions) / document_counts)
        weights = table.counts * idf[table.ngrams]
        norms = np.sqrt(np.bincount(table.captions, weights**2, minlength=said.caption_count))
        norms[norms == 0] = 1.0  # captions whose n-grams occur with every image
        values = weights / norms[table.captions] / sizes[image]
        targets.append(NgramTargets(n, captions, table.first, idf, image, table.ngrams, values))
    return targets


def select_largest(
    targets: Sequence[NgramTargets], vocabulary: Vocabulary, max_ngrams: int
) -> list[tuple[NgramTargets, Int[np.ndarray, " ngrams"]]]:
    """Return the n-grams of the vocabulary's words with the largest mass, by their length."""
    mass = np.concatenate([target.mass for target in targets])
    starts = np.cumsum([0, *(len(target.idf) for target in targets)])
    chosen: list[list[int]] = [[] for _ in targets]
    left = max_ngrams
    for index in np.argsort(-mass, kind="stable"):
        if not left:
            break
        order = int(np.searchsorted(starts, index, side="right")) - 1
        ngram = int(index - starts[order])
        if all(vocabulary.id(word) >= len(SPECIALS) for word in targets[order].words(ngram)):
            chosen[order].append(ngram)
            left -= 1
    return [
        (target, np.array(sorted(rows)))
        for target, rows in zip(targets, chosen, strict=True)
        if rows
    ]
