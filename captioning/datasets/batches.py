"""Batches of captions, in an order that depends only on a seed and an epoch."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from captioning.errors import DataError
from captioning.text.caption_arrays import CaptionArray, expand_ranges
from captioning.text.vocabulary import Vocabulary

_HFLIP_WORDS = {"left": "right", "right": "left"}
_ROUNDING = 1e-6  # possible rounding error of a sum of weights


@dataclass(frozen=True)
class Batch:
    """``N`` captions of ``B`` images, with ``M`` input words.

    Attributes:
        images: Row of each image in the split. An image can occur twice.
        views: View of each image (:mod:`captioning.images.augmentation`).
        image_index: Index in ``images`` of the image of each caption.
        inputs: Packed captions from ``<bos>`` to the last word, without ``<eos>``.
        targets: The token after each packed input.
    """

    images: Int[Tensor, " B"]
    views: Int[Tensor, " B"]
    image_index: Int[Tensor, " N"]
    inputs: PackedSequence
    targets: Int[Tensor, " M"]

    @property
    def flipped(self) -> Int[Tensor, " B"]:
        """1 for each image with a flipped view, otherwise 0."""
        return self.views % 2

    def __len__(self) -> int:
        return len(self.image_index)


class CaptionDataset:
    """The captions of a split as tokens.

    Args:
        captions: Captions of each image, each from ``<bos>`` to ``<eos>``. Images without captions
            are in no batch.
        hflip_tokens: For tokens that change in a flipped image, the token that replaces them
            (:func:`find_hflip_tokens`).
        weights: How often an epoch contains the captions of each image. A fraction is a
            probability. None: once.

    Raises:
        DataError: There are no captions, or an epoch would contain none.
    """

    def __init__(
        self,
        captions: CaptionArray,
        *,
        hflip_tokens: Mapping[int, int] | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.captions = captions
        self.hflip_tokens = dict(hflip_tokens or {})
        self.weights = None if weights is None else np.array(weights, dtype=np.float64)
        if not len(self):
            raise DataError("the training split has no captions. Use another split or other data.")
        largest = int(captions.captions_per_image.max())
        if weights is not None and not self.batch_count(1, largest):
            raise DataError(
                f"an epoch would have no captions, because the weights are too low (the lowest is "
                f"{min(weights)}). Use higher weights."
            )

    def __len__(self) -> int:
        return self.captions.caption_count

    def batch_count(self, size: int, per_image: int) -> int:
        """Return the number of batches in an epoch. Arguments as in :meth:`batches`."""
        groups = -(-self.captions.captions_per_image // per_image)
        total = groups.sum() if self.weights is None else (groups * self.weights).sum()
        return -(-_floor(float(total)) // max(1, size // per_image))

    def batches(
        self, size: int, *, per_image: int = 1, views: int = 1, seed: int = 0, epoch: int = 0
    ) -> Iterator[Batch]:
        """Yield the batches of an epoch.

        Args:
            size: Captions per batch.
            per_image: Captions of one image in the same batch; they use the same image features.
            views: Number of views per image, of which one is drawn. Captions of flipped views
                have "left" and "right" swapped.
            seed: Seed of the run.
            epoch: Number of the epoch.
        """
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = self._shuffle_within_images(generator)
        counts = self.captions.captions_per_image
        groups = -(-counts // per_image)
        images = np.repeat(np.arange(len(counts)), groups)
        number = expand_ranges(np.zeros_like(groups), groups)  # of the group within its image
        starts = self.captions.image_starts[images] + per_image * number
        ends = np.minimum(starts + per_image, self.captions.image_starts[images + 1])
        shuffled = torch.randperm(len(images), generator=generator).numpy()
        if self.weights is not None:
            sampled = _sample(self.weights[images[shuffled]])
            shuffled = shuffled[sampled[torch.randperm(len(sampled), generator=generator).numpy()]]
        step = max(1, size // per_image)
        for start in range(0, len(shuffled), step):
            batch = shuffled[start : start + step]
            drawn = torch.randint(0, views, (len(batch),), generator=generator)
            captions = [order[a:b] for a, b in zip(starts[batch], ends[batch], strict=True)]
            yield self._collate(images[batch], captions, drawn)

    def _shuffle_within_images(self, generator: torch.Generator) -> Int[np.ndarray, " captions"]:
        """Return the index of each caption, with the captions of each image in random order."""
        counts = self.captions.captions_per_image
        permutations = [torch.randperm(n, generator=generator) for n in counts.tolist()]
        within = torch.cat(permutations).numpy()
        return np.repeat(self.captions.image_starts[:-1], counts) + within

    def _collate(
        self,
        images: Int[np.ndarray, " B"],
        captions: Sequence[np.ndarray],
        views: Int[Tensor, " B"],
    ) -> Batch:
        tokens = [
            self._read(caption, flip)
            for own, flip in zip(captions, (views % 2).tolist(), strict=True)
            for caption in own.tolist()
        ]
        index = np.repeat(np.arange(len(captions)), [len(own) for own in captions])
        inputs = pack_sequence([caption[:-1] for caption in tokens], enforce_sorted=False)
        targets = pack_sequence([caption[1:] for caption in tokens], enforce_sorted=False)
        return Batch(torch.from_numpy(images), views, torch.from_numpy(index), inputs, targets.data)

    def _read(self, caption: int, flip: int) -> Int[Tensor, " T"]:
        """Return the tokens of a caption, for a flipped image if ``flip`` is 1."""
        starts = self.captions.caption_starts
        tokens = self.captions.ids[starts[caption] : starts[caption + 1]].astype(np.int64)
        if flip and self.hflip_tokens:
            swapped = [self.hflip_tokens.get(token, token) for token in tokens.tolist()]
            return torch.tensor(swapped)
        return torch.from_numpy(tokens)


def _sample(weights: Float[np.ndarray, " groups"]) -> Int[np.ndarray, " sampled"]:
    """Return indices, each as often as its weight says.

    Systematic sampling: intervals with the weights as lengths are placed end to end, and each
    integer on the line selects the interval that contains it. So every epoch has the same length.
    """
    ends = np.floor(np.cumsum(weights) + _ROUNDING).astype(np.int64)
    return np.repeat(np.arange(len(weights)), np.diff(ends, prepend=0))


def _floor(length: float) -> int:
    """Return the largest integer up to ``length``, ignoring rounding errors."""
    return math.floor(length + _ROUNDING)


def find_hflip_tokens(vocabulary: Vocabulary) -> dict[int, int]:
    """Map the id of "left" to that of "right" and the reverse; empty if a word is unknown."""
    if not all(word in vocabulary for word in _HFLIP_WORDS):
        return {}
    return {vocabulary.id(word): vocabulary.id(other) for word, other in _HFLIP_WORDS.items()}
