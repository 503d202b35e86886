"""What people are going to say about an image, in phrases of one to four words, from v alone.

A decoder that has learned a few thousand photos by heart ranks the captions of its beam badly. A
linear regression on v, which has no words before the next to lean on, knows less and is wrong about
other things: together they choose better (docs/experiments.md, "phrases that v makes likely").

Fang et al. (2015), From captions to visual concepts and back, detect words and rank sentences by
them; Lebret et al. (2015), Phrase-based image captioning, score phrases by a product with v.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Int8
from safetensors.torch import save_file
from torch import Tensor

from captioning.checkpoint.weights_file import open_weights
from captioning.errors import CheckpointError, DataError
from captioning.messages import format_count
from captioning.metrics.ngrams import ORDER, count_ngrams
from captioning.text.vocabulary import SPECIALS, Vocabulary

MAX_NGRAMS = 6000
RIDGE = 0.2
_AT_ONCE = 8192  # images: 84 MB of 1,280 numbers each
_LEVELS = 127
_MOST_STORED = 1_000_000
_LARGEST = {"scales": 1e6, "idf": 100.0, "unseen": 100.0}
"""Beyond which no scale of a share and no logarithm of a number of images lies."""
_NONE = 0  # <pad>, which no caption holds: fills the places of phrases of fewer words


@dataclass(frozen=True, eq=False)
class NgramReranker:
    """A linear regression from v to how much of people's captions each phrase makes up.

    With u(c) for a caption's n-grams of n words, weighed by tf-idf and of length 1, what is learned
    is the mean u of the captions of an image, as CIDEr compares it (Vedantam et al. 2015, section
    3, equation 2). So::

        agreement(c) = 10 / 4 * sum_n u_n(c) . E[u_n | v],    E[u | v] = W v / |v|

    is an estimate of the CIDEr, from 0 to 10, that a caption c may expect. W has a row for each
    phrase, in eight bits with a scale for each row.

    Attributes:
        tokens: The words of each phrase, and 0 in the places that it leaves free.
        weights: W, over ``scales``.
        scales: Of each row of W.
        idf: The logarithm of images over images about which somebody said the phrase.
        unseen: What counts as that of phrases that are not among these: of one that is said of a
            single image.
    """

    tokens: Int[Tensor, "P 4"]
    weights: Int8[Tensor, "P D"]
    scales: Float[Tensor, " P"]
    idf: Float[Tensor, " P"]
    unseen: float

    @classmethod
    def fit(
        cls,
        vectors: Float[Tensor, "N D"],
        captions: Sequence[Sequence[Sequence[str]]],
        vocabulary: Vocabulary,
        *,
        max_ngrams: int = MAX_NGRAMS,
        ridge: float = RIDGE,
    ) -> "NgramReranker":
        """Learn from captioned images: ridge regression, solved at once.

        Args:
            vectors: v of each image, on the CPU; those that are not finite are left out.
            captions: What people said of each, as words; those without captions are left out.
            vocabulary: The decoder's words. NgramReranker of others are not learned.
            max_ngrams: Number of n-grams to keep: those of more than a third of the images,
                and then those that make up most of the captions, by tf-idf.
            ridge: What is added to the diagonal of the unit vectors' matrix of products.

        Raises:
            DataError: Fewer than two images have captions, or these have no phrase in common
                with the vocabulary.
        """
        finite = vectors.isfinite().all(1).tolist()
        spoken = [place for place, said in enumerate(captions) if any(said) and finite[place]]
        if len(spoken) < 2:
            raise DataError(
                f"NgramReranker are learned from captioned images, and there is "
                f"{format_count(len(spoken), 'such image')}. Give more, or learn none."
            )
        shares = _shares([[list(c) for c in captions[place] if c] for place in spoken])
        chosen = _largest(shares, vocabulary, max_ngrams)
        if not chosen:
            raise DataError(
                "No phrase of the captions is made of the vocabulary's words, so none can be "
                "learned."
            )
        size = vectors.shape[1]
        products = ridge * torch.eye(size, dtype=torch.float64)
        answers = torch.zeros(sum(len(picked) for _, picked in chosen), size, dtype=torch.float64)
        for first in range(0, len(spoken), _AT_ONCE):
            part = spoken[first : first + _AT_ONCE]
            units = torch.nn.functional.normalize(vectors[part].double(), dim=1)
            wanted = [share.of(picked, first, len(part)) for share, picked in chosen]
            products += units.T @ units
            answers += torch.cat(wanted) @ units
        rows = torch.linalg.solve(products, answers.T).T
        scales = (rows.abs().amax(1) / _LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
        return cls(
            torch.cat([share.tokens(picked, vocabulary) for share, picked in chosen]),
            torch.round(rows / scales.unsqueeze(1)).to(torch.int8),
            scales.float(),
            torch.cat([torch.from_numpy(share.idf[picked]) for share, picked in chosen]).float(),
            float(np.float32(math.log(len(spoken)))),  # as it is written
        )

    def __len__(self) -> int:
        """Return P, the number of phrases."""
        return len(self.tokens)

    @cached_property
    def _matrix(self) -> Float[Tensor, "D P"]:
        return self.weights.T.contiguous().float().mul_(self.scales)

    @cached_property
    def _places(self) -> dict[tuple[int, ...], tuple[int, float]]:
        """Return where each phrase stands, and its idf."""
        phrases = [tuple(t for t in row if t != _NONE) for row in self.tokens.tolist()]
        return {
            phrase: (place, idf)
            for place, (phrase, idf) in enumerate(zip(phrases, self.idf.tolist(), strict=True))
        }

    def prepare(
        self, vectors: Float[Tensor, "B D"]
    ) -> Callable[[int, Sequence[Sequence[int]]], list[float]]:
        """Return how far captions, given as ids, agree with what v of their image makes likely.

        Args:
            vectors: v of some images.

        Returns:
            A function of an image's place among these, and captions. Nothing is computed before it
            is called, which searches that count no phrases never do.
        """

        @cache
        def expected() -> Float[np.ndarray, "B P"]:
            units = torch.nn.functional.normalize(vectors.detach().cpu().float(), dim=1)
            return (units @ self._matrix).numpy()

        def agreement(image: int, captions: Sequence[Sequence[int]]) -> list[float]:
            return [self._agreement(expected()[image], caption) for caption in captions]

        return agreement

    def _agreement(self, expected: Float[np.ndarray, " P"], caption: Sequence[int]) -> float:
        total = 0.0
        for n in range(1, min(ORDER, len(caption)) + 1):
            tails = [caption[start:] for start in range(n)]
            shared = square = 0.0
            for phrase, count in Counter(zip(*tails, strict=False)).items():
                place, idf = self._places.get(phrase, (None, self.unseen))
                weight = count * idf
                square += weight**2
                if place is not None:
                    shared += weight * float(expected[place])
            if square:
                total += shared / math.sqrt(square)
        return 10 * total / ORDER

    def digest(self) -> bytes:
        """Return what differs wherever a phrase or a number does."""
        found = hashlib.sha256(repr((self.unseen, len(self))).encode())
        for tensor in (self.tokens, self.weights, self.scales, self.idf):
            found.update(tensor.contiguous().numpy().tobytes())
        return found.digest()

    # --- files --------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write them as one safetensors file."""
        tensors = {
            "tokens": self.tokens.int(),
            "weights": self.weights,
            "scales": self.scales,
            "idf": self.idf,
            "unseen": torch.tensor([self.unseen]),
        }
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)

    @classmethod
    def load(cls, path: Path, *, words: int, features: int) -> "NgramReranker":
        """Read what :meth:`save` wrote, which is not believed.

        Args:
            path: The file.
            words: In the vocabulary of the model that it is to go with.
            features: D, the size of that model's v.

        Raises:
            CheckpointError: It is damaged, or does not go with that model.
        """
        with open_weights(path) as stored:
            found = {name: (each.dtype, each.shape) for name, each in stored.tensors.items()}
            count = stored.tensors["tokens"].shape[0] if found.get("tokens", (0, ()))[1] else 0
            wanted = {
                "tokens": (torch.int32, (count, ORDER)),
                "weights": (torch.int8, (count, features)),
                "scales": (torch.float32, (count,)),
                "idf": (torch.float32, (count,)),
                "unseen": (torch.float32, (1,)),
            }
            if found != wanted or count > _MOST_STORED:
                raise CheckpointError(
                    f"{path} holds no phrases for a v of {features} numbers, or too many. The "
                    "files belong to different models; copy the model again."
                )
            tensors = {name: stored.read_finite(name) for name in wanted}
        tokens = tensors["tokens"].long()
        empty = tokens == _NONE
        if len(torch.unique(tokens, dim=0)) < count:
            raise CheckpointError(f"{path} holds a phrase twice. Copy the model again.")
        if (tokens < 0).any() or (tokens >= words).any():
            raise CheckpointError(
                f"{path} speaks of words that the vocabulary of {words} has not. The files belong "
                "to different models; copy the model again."
            )
        if empty[:, 0].any() or (empty[:, :-1] & ~empty[:, 1:]).any():
            raise CheckpointError(f"{path}: a phrase has gaps. Copy the model again.")
        for name, largest in _LARGEST.items():
            if (tensors[name] < 0).any() or (tensors[name] > largest).any():
                raise CheckpointError(
                    f"{path}: {name} holds numbers outside 0 to {largest:g}. Copy the model again."
                )
        return cls(
            tokens,
            tensors["weights"],
            tensors["scales"],
            tensors["idf"],
            float(tensors["unseen"]),
        )


@dataclass(frozen=True)
class _Shares:
    """How much of an image's captions each n-gram of one length makes up: the mean u_n.

    Attributes:
        n: Words.
        captions: All captions.
        first: For each n-gram, a caption and the word in it where it begins.
        idf: Of each.
        images: Of each entry, the image, rising; ``ngrams`` the n-gram; ``values`` the share.
    """

    n: int
    captions: list[list[str]]
    first: Int[np.ndarray, "distinct 2"]
    idf: Float[np.ndarray, " distinct"]
    images: Int[np.ndarray, " entries"]
    ngrams: Int[np.ndarray, " entries"]
    values: Float[np.ndarray, " entries"]

    @property
    def mass(self) -> Float[np.ndarray, " distinct"]:
        """The sum of each n-gram's shares over all images; without end where its idf is below 1.

        Such an n-gram makes up little of a caption, but what is not learned counts as rare.
        """
        mass = np.bincount(self.ngrams, self.values, minlength=len(self.idf))
        return np.where(self.idf < 1, np.inf, mass)

    def words(self, ngram: int) -> list[str]:
        """Return an n-gram's words."""
        caption, start = self.first[ngram]
        return self.captions[caption][start : start + self.n]

    def tokens(self, picked: Int[np.ndarray, " P"], vocabulary: Vocabulary) -> Int[Tensor, "P 4"]:
        """Return the words of some n-grams as ids."""
        free = [_NONE] * (ORDER - self.n)
        rows = [[*map(vocabulary.id, self.words(ngram)), *free] for ngram in picked.tolist()]
        return torch.tensor(rows, dtype=torch.long).reshape(-1, ORDER)

    def of(self, picked: Int[np.ndarray, " P"], first: int, count: int) -> Float[Tensor, "P N"]:
        """Return the shares of some n-grams in ``count`` images from ``first``, sparse."""
        row = np.full(len(self.idf), -1)
        row[picked] = np.arange(len(picked))
        start, end = np.searchsorted(self.images, [first, first + count])
        rows = row[self.ngrams[start:end]]
        kept = rows >= 0
        places = np.stack([rows[kept], self.images[start:end][kept] - first])
        values = torch.from_numpy(self.values[start:end][kept])
        size = (len(picked), count)
        return torch.sparse_coo_tensor(
            torch.from_numpy(places), values, size, check_invariants=True
        )


def _shares(captions: Sequence[Sequence[list[str]]]) -> list[_Shares]:
    """Return the shares of all n-grams of one to four words."""
    flat = [words for image in captions for words in image]
    sizes = np.array([len(image) for image in captions])
    owner = np.repeat(np.arange(len(captions)), sizes)
    found = []
    for n, table in enumerate(count_ngrams(flat), 1):
        distinct = len(table.first)
        image = owner[table.captions]
        pairs = np.unique(image * max(distinct, 1) + table.ngrams)
        images = np.bincount(pairs % max(distinct, 1), minlength=distinct)
        idf = np.log(len(captions) / images)
        weights = table.counts * idf[table.ngrams]
        norms = np.sqrt(np.bincount(table.captions, weights**2, minlength=len(flat)))
        norms[norms == 0] = 1.0  # of n-grams that stand about every image
        values = weights / norms[table.captions] / sizes[image]
        found.append(_Shares(n, flat, table.first, idf, image, table.ngrams, values))
    return found


def _largest(
    shares: Sequence[_Shares], vocabulary: Vocabulary, most: int
) -> list[tuple[_Shares, Int[np.ndarray, " P"]]]:
    """Return the n-grams of the vocabulary's words that make up most of the captions."""
    mass = np.concatenate([each.mass for each in shares])
    starts = np.cumsum([0, *(len(each.idf) for each in shares)])
    picked: list[list[int]] = [[] for _ in shares]
    left = most
    for place in np.argsort(-mass, kind="stable"):
        if not left:
            break
        order = int(np.searchsorted(starts, place, side="right")) - 1
        ngram = int(place - starts[order])
        if all(vocabulary.id(word) >= len(SPECIALS) for word in shares[order].words(ngram)):
            picked[order].append(ngram)
            left -= 1
    return [
        (each, np.array(sorted(rows))) for each, rows in zip(shares, picked, strict=True) if rows
    ]
