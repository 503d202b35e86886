"""Batches of captions, in an order that depends only on a seed and an epoch."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from captioning.errors import DataError
from captioning.text.vocabulary import Vocabulary

_HFLIP_WORDS = {"left": "right", "right": "left"}


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
        captions: Sequence[Sequence[Sequence[int]]],
        *,
        hflip_tokens: Mapping[int, int] | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.captions = [[torch.tensor(tokens) for tokens in image] for image in captions]
        self.hflip_tokens = dict(hflip_tokens or {})
        self.weights = None if weights is None else list(weights)
        self.count = sum(map(len, self.captions))
        if not self.count:
            raise DataError("the training split has no captions. Use another split or other data.")
        if weights is not None and not self.batch_count(1, max(map(len, self.captions))):
            raise DataError(
                f"an epoch would have no captions, because the weights are too low (the lowest is "
                f"{min(weights)}). Use higher weights."
            )

    def __len__(self) -> int:
        return self.count

    def batch_count(self, size: int, per_image: int) -> int:
        """Return the number of batches in an epoch. Arguments as in :meth:`batches`."""
        counts = [-(-len(image) // per_image) for image in self.captions]
        weights = self.weights or [1.0] * len(counts)
        total = sum(count * weight for count, weight in zip(counts, weights, strict=True))
        return -(-_floor(total) // max(1, size // per_image))

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
        groups: list[tuple[int, list[Tensor]]] = []
        for image, captions in enumerate(self.captions):
            order = torch.randperm(len(captions), generator=generator).tolist()
            for start in range(0, len(captions), per_image):
                chosen = order[start : start + per_image]
                groups.append((image, [captions[i] for i in chosen]))
        shuffled = torch.randperm(len(groups), generator=generator).tolist()
        if self.weights is not None:
            sampled = self._sample([groups[i][0] for i in shuffled], self.weights)
            order = torch.randperm(len(sampled), generator=generator).tolist()
            shuffled = [shuffled[sampled[i]] for i in order]
        step = max(1, size // per_image)
        for start in range(0, len(shuffled), step):
            batch = [groups[i] for i in shuffled[start : start + step]]
            drawn = torch.randint(0, views, (len(batch),), generator=generator)
            yield self._collate(batch, drawn)

    def _sample(self, images: list[int], weights: list[float]) -> list[int]:
        """Return indices of ``images``, each as often as the weight of its image says.

        Systematic sampling: intervals with the weights as lengths are placed end to end, and each
        integer on the line selects the interval that contains it. So every epoch has the same
        length.
        """
        sampled, end = [], 0.0
        for index, image in enumerate(images):
            start, end = end, end + weights[image]
            sampled += [index] * (_floor(end) - _floor(start))
        return sampled

    def _collate(self, groups: list[tuple[int, list[Tensor]]], views: Tensor) -> Batch:
        flips = (views % 2).tolist()
        tokens = [
            self._hflip(caption) if flip else caption
            for (_, captions), flip in zip(groups, flips, strict=True)
            for caption in captions
        ]
        index = [number for number, (_, captions) in enumerate(groups) for _ in captions]
        inputs = pack_sequence([caption[:-1] for caption in tokens], enforce_sorted=False)
        targets = pack_sequence([caption[1:] for caption in tokens], enforce_sorted=False)
        images = torch.tensor([image for image, _ in groups])
        return Batch(images, views, torch.tensor(index), inputs, targets.data)

    def _hflip(self, tokens: Tensor) -> Tensor:
        if not self.hflip_tokens:
            return tokens
        return torch.tensor([self.hflip_tokens.get(token, token) for token in tokens.tolist()])


def _floor(length: float) -> int:
    """Return the largest integer up to ``length``, ignoring rounding errors."""
    return math.floor(length + 1e-6)


def find_hflip_tokens(vocabulary: Vocabulary) -> dict[int, int]:
    """Map the id of "left" to that of "right" and the reverse; empty if a word is unknown."""
    if not all(word in vocabulary for word in _HFLIP_WORDS):
        return {}
    return {vocabulary.id(word): vocabulary.id(other) for word, other in _HFLIP_WORDS.items()}
