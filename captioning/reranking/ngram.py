"""N-gram reranking: a linear regression from the image vector v to the n-grams of its captions.

A decoder trained on a few thousand images overfits and ranks its hypotheses badly. A linear
regression on v has no preceding words to rely on and makes other errors, so the two together choose
better captions (docs/experiments.md, "N-gram reranking").

Fang et al. (2015), From captions to visual concepts and back, detect words and rank sentences by
them. Lebret et al. (2015), Phrase-based image captioning, score phrases by a product with v.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int, Int8
from torch import Tensor

from captioning.errors import DataError
from captioning.messages import format_count
from captioning.reranking.ngram_targets import NO_WORD, build_targets, select_largest
from captioning.text.caption_arrays import CaptionWords
from captioning.text.ngrams import ORDER
from captioning.text.vocabulary import Vocabulary
from captioning.track import OnProgress

DEFAULT_NGRAMS = 6000
DEFAULT_RIDGE = 0.2
_BATCH_SIZE = 8192  # images; 84 MB for vectors of 1,280 numbers
_INT8_MAX = 127
_STORED_NGRAMS_MAX = 1_000_000
_VALUE_MAX = {"scales": 1e6, "idf": 100.0, "unseen": 100.0}


@dataclass(frozen=True, eq=False)
class NgramReranker:
    """A linear regression from v to the tf-idf vectors of an image's captions.

    Let u_n(c) be the tf-idf vector of a caption's n-grams of n words, scaled to length 1. The
    regression estimates m_n(v), the mean of u_n over the captions of an image. CIDEr compares a
    candidate with this mean (Vedantam et al. 2015, section 3, equation 2)::

        score(c) = 10 / 4 * sum_n u_n(c) . m_n(v),    m(v) = W v / |v|

    The score estimates the CIDEr of a caption c, from 0 to 10. W has one row for each n-gram,
    stored in eight bits with one scale per row.

    Attributes:
        tokens: Word ids of each n-gram, padded with 0.
        weights: W divided by ``scales``.
        scales: Scale of each row of W.
        idf: Inverse document frequency of each n-gram: log(images / images with the n-gram).
        unseen: idf of n-grams that are not stored, as if each occurred in one image.
    """

    tokens: Int[Tensor, "ngrams 4"]
    weights: Int8[Tensor, "ngrams D"]
    scales: Float[Tensor, " ngrams"]
    idf: Float[Tensor, " ngrams"]
    unseen: float

    @classmethod
    def fit(
        cls,
        vectors: Float[Tensor, "N D"],
        captions: CaptionWords,
        vocabulary: Vocabulary,
        *,
        max_ngrams: int = DEFAULT_NGRAMS,
        ridge: float = DEFAULT_RIDGE,
        on_progress: OnProgress = lambda done, total: None,
    ) -> "NgramReranker":
        """Fit the regression to captioned images in closed form (ridge regression).

        Args:
            vectors: v of each image, on the CPU. Vectors with infinities or NaN are left out.
            captions: Tokenized captions of each image. Empty captions, and images without
                captions, are left out.
            vocabulary: Words of the decoder. N-grams with other words are left out.
            max_ngrams: Number of n-grams to keep. N-grams of more than 37 % of the images (idf
                below 1) are taken first, because captions would otherwise get the idf of unseen
                n-grams for them. Then those with the largest sums of tf-idf are taken.
            ridge: Number added to the diagonal of the Gram matrix of the unit vectors.
            on_progress: Called with the number of images fitted to and the number of all.

        Raises:
            DataError: There are fewer than two captioned images, or no n-gram consists of words
                of the vocabulary.
        """
        said = captions.captions.keep(captions.captions.lengths > 0)
        finite = vectors.isfinite().all(1).numpy()
        images = np.flatnonzero(finite & (said.captions_per_image > 0))
        if len(images) < 2:
            raise DataError(
                "n-gram reranking needs at least two captioned images, found "
                f"{format_count(len(images), 'such image')}. Add images, or turn it off."
            )
        targets = build_targets(CaptionWords(captions.words, said.select(images)))
        chosen = select_largest(targets, vocabulary, max_ngrams)
        if not chosen:
            raise DataError(
                "no n-gram of the captions consists of words of the vocabulary. Use captions of "
                "the same language, or turn n-gram reranking off."
            )
        size = vectors.shape[1]
        gram = ridge * torch.eye(size, dtype=torch.float64)
        products = torch.zeros(sum(len(rows) for _, rows in chosen), size, dtype=torch.float64)
        for start in range(0, len(images), _BATCH_SIZE):
            on_progress(start, len(images))
            batch = images[start : start + _BATCH_SIZE]
            units = torch.nn.functional.normalize(vectors[batch].double(), dim=1)
            gram += units.T @ units
            wanted = [target.select(rows, start, len(batch)) for target, rows in chosen]
            products += torch.cat(wanted) @ units
        W = torch.linalg.solve(gram, products.T).T
        scales = (W.abs().amax(1) / _INT8_MAX).clamp_min(torch.finfo(torch.float32).tiny)
        return cls(
            torch.cat([target.tokens(rows, vocabulary) for target, rows in chosen]),
            torch.round(W / scales.unsqueeze(1)).to(torch.int8),
            scales.float(),
            torch.cat([torch.from_numpy(target.idf[rows]) for target, rows in chosen]).float(),
            float(np.float32(math.log(len(images)))),  # rounded as it is stored
        )

    def __len__(self) -> int:
        """Return the number of n-grams."""
        return len(self.tokens)

    def prepare(
        self, vectors: Float[Tensor, "B D"]
    ) -> Callable[[int, Sequence[Sequence[int]]], list[float]]:
        """Return a function that scores captions of a batch of images.

        Args:
            vectors: v of each image.

        Returns:
            ``rerank(image, captions)``: the scores of captions, given as word ids, for the image
            at this index. It computes only the rows of W that the captions need.
        """
        units = torch.nn.functional.normalize(vectors.detach().float(), dim=1).cpu().numpy()
        weights, scales = self.weights.numpy(), self.scales.numpy()

        def rerank(image: int, captions: Sequence[Sequence[int]]) -> list[float]:
            found = [_list_ngrams(caption) for caption in captions]
            names = {name for ngrams in found for name in ngrams if name in self._rows}
            rows = [self._rows[name][0] for name in names]
            expected = (weights[rows].astype(np.float32) @ units[image]) * scales[rows]
            values = dict(zip(names, expected.tolist(), strict=True))
            return [self._score(values, ngrams) for ngrams in found]

        return rerank

    @cached_property
    def _rows(self) -> dict[tuple[int, ...], tuple[int, float]]:
        """Return the row and the idf of each n-gram."""
        ngrams = [tuple(t for t in row if t != NO_WORD) for row in self.tokens.tolist()]
        return {
            ngram: (row, idf)
            for row, (ngram, idf) in enumerate(zip(ngrams, self.idf.tolist(), strict=True))
        }

    def _score(
        self, expected: Mapping[tuple[int, ...], float], ngrams: Sequence[tuple[int, ...]]
    ) -> float:
        products, squares = [0.0] * ORDER, [0.0] * ORDER
        for ngram, count in Counter(ngrams).items():
            weight = count * self._rows.get(ngram, (0, self.unseen))[1]
            squares[len(ngram) - 1] += weight**2
            products[len(ngram) - 1] += weight * expected.get(ngram, 0.0)
        scored = zip(products, squares, strict=True)
        return 10 / ORDER * sum(p / math.sqrt(square) for p, square in scored if square)

    def digest(self) -> bytes:
        """Return a hash of all n-grams and numbers."""
        found = hashlib.sha256(repr((self.unseen, len(self))).encode())
        for tensor in (self.tokens, self.weights, self.scales, self.idf):
            found.update(tensor.contiguous().numpy().tobytes())
        return found.digest()

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the content as named tensors, to be stored with the model."""
        return {
            "tokens": self.tokens.int().contiguous(),
            "weights": self.weights.contiguous(),
            "scales": self.scales.contiguous(),
            "idf": self.idf.contiguous(),
            "unseen": torch.tensor([self.unseen]),
        }

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], *, vocabulary_size: int, feature_size: int
    ) -> "NgramReranker":
        """Return the reranker that :meth:`to_tensors` stored.

        Args:
            tensors: Named tensors with finite values, which may come from any file.
            vocabulary_size: V of the model.
            feature_size: D of the model.

        Raises:
            DataError: The tensors are not those of a reranker for this model.
        """
        found = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
        count = next(iter(found.get("tokens", (None, ()))[1]), 0)
        wanted = {
            "tokens": (torch.int32, (count, ORDER)),
            "weights": (torch.int8, (count, feature_size)),
            "scales": (torch.float32, (count,)),
            "idf": (torch.float32, (count,)),
            "unseen": (torch.float32, (1,)),
        }
        if found != wanted or count > _STORED_NGRAMS_MAX:
            raise DataError(
                f"expected n-grams for image vectors of size {feature_size}. The files belong to "
                "different models"
            )
        tokens = tensors["tokens"].long()
        empty = tokens == NO_WORD
        if len(torch.unique(tokens, dim=0)) < count:
            raise DataError("an n-gram is repeated")
        if (tokens < 0).any() or (tokens >= vocabulary_size).any():
            raise DataError(
                f"a word id is outside the vocabulary of {vocabulary_size} words. The files belong "
                "to different models"
            )
        if empty[:, 0].any() or (empty[:, :-1] & ~empty[:, 1:]).any():
            raise DataError("an n-gram has an empty position before its last word")
        for name, largest in _VALUE_MAX.items():
            if (tensors[name] < 0).any() or (tensors[name] > largest).any():
                raise DataError(f"{name} has values outside 0 to {largest:g}")
        return cls(
            tokens, tensors["weights"], tensors["scales"], tensors["idf"], float(tensors["unseen"])
        )


def _list_ngrams(caption: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the n-grams of 1 to 4 words, with repetitions."""
    return [
        ngram
        for n in range(1, ORDER + 1)
        for ngram in zip(*(caption[i:] for i in range(n)), strict=False)
    ]
