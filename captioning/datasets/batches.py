"""Captions in batches, in an order that a seed and an epoch decide."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from captioning.errors import DataError
from captioning.text.vocabulary import Vocabulary

_SIDES = {"left": "right", "right": "left"}


@dataclass(frozen=True)
class Batch:
    """Captions and the images that they describe.

    Attributes:
        images: Places in the split of the images of this batch; an image whose captions are in
            several groups may be there more than once.
        views: The view of each image to be looked at (:mod:`captioning.images.augmentation`).
        image: For each caption, the place of its image in ``images``.
        inputs: The captions from ``<bos>`` on, without their last word.
        targets: For each packed input, the word that follows.
    """

    images: Int[Tensor, " B"]
    views: Int[Tensor, " B"]
    image: Int[Tensor, " N"]
    inputs: PackedSequence
    targets: Int[Tensor, " M"]

    @property
    def mirrored(self) -> Int[Tensor, " B"]:
        """1 for each image whose view is a mirrored one."""
        return self.views % 2

    def __len__(self) -> int:
        return len(self.image)


class CaptionDataset:
    """The captions of a split as tokens.

    Args:
        captions: For each image its captions, each from ``<bos>`` to ``<eos>``. An image without
            captions is left out of every batch.
        sides: Ids of words that change places in a mirrored image
            (:func:`mirror_words`).
        times: For each image, how often an epoch has its captions; a fraction is its chance.
            Once, where nothing is given.

    Raises:
        DataError: There is no caption at all, or none in an epoch.
    """

    def __init__(
        self,
        captions: Sequence[Sequence[Sequence[int]]],
        *,
        sides: Mapping[int, int] | None = None,
        times: Sequence[float] | None = None,
    ) -> None:
        self.captions = [[torch.tensor(tokens) for tokens in image] for image in captions]
        self.sides = dict(sides or {})
        self.times = None if times is None else list(times)
        self.count = sum(map(len, self.captions))
        if not self.count:
            raise DataError("There is no caption to train on: every list of captions is empty.")
        if times is not None and not self.batch_count(1, max(map(len, self.captions))):
            raise DataError(
                f"Shown as seldom as that (the lowest times is {min(times)}), an epoch would have "
                "no caption. Give higher times."
            )

    def __len__(self) -> int:
        return self.count

    def batch_count(self, size: int, per_image: int) -> int:
        """Return how many batches an epoch has."""
        counts = [-(-len(image) // per_image) for image in self.captions]
        times = self.times or [1.0] * len(counts)
        groups = _whole(sum(count * each for count, each in zip(counts, times, strict=True)))
        return -(-groups // max(1, size // per_image))

    def batches(
        self, size: int, *, per_image: int = 1, views: int = 1, seed: int = 0, epoch: int = 0
    ) -> Iterator[Batch]:
        """Yield an epoch's captions, in an order that depends on ``seed`` and ``epoch`` alone.

        Args:
            size: Captions in a batch.
            per_image: Captions of one image that go together, sharing what is computed once per
                image.
            views: How many views each image has; one is drawn each time. "left" and "right"
                change places in the captions of mirrored ones.
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
        if self.times is not None:
            drawn = self._draw([groups[i][0] for i in shuffled])
            order = torch.randperm(len(drawn), generator=generator).tolist()
            shuffled = [shuffled[drawn[i]] for i in order]
        step = max(1, size // per_image)
        for start in range(0, len(shuffled), step):
            chosen_groups = [groups[i] for i in shuffled[start : start + step]]
            seen = torch.randint(0, views, (len(chosen_groups),), generator=generator)
            yield self._collate(chosen_groups, seen)

    def _draw(self, images: list[int]) -> list[int]:
        """Return the places of an epoch's groups, each as often as its image is to be seen.

        Systematic sampling: the groups lie end to end on a line, each as long as its ``times``,
        and those are taken in which a whole number lies. So an epoch always has the same length.
        """
        assert self.times is not None
        drawn, end = [], 0.0
        for place, image in enumerate(images):
            start, end = end, end + self.times[image]
            drawn += [place] * (_whole(end) - _whole(start))
        return drawn

    def _collate(self, groups: list[tuple[int, list[Tensor]]], views: Tensor) -> Batch:
        flips = (views % 2).tolist()
        tokens = [
            self._mirror(caption) if flip else caption
            for (_, captions), flip in zip(groups, flips, strict=True)
            for caption in captions
        ]
        place = [place for place, (_, captions) in enumerate(groups) for _ in captions]
        inputs = pack_sequence([caption[:-1] for caption in tokens], enforce_sorted=False)
        targets = pack_sequence([caption[1:] for caption in tokens], enforce_sorted=False)
        images = torch.tensor([image for image, _ in groups])
        return Batch(images, views, torch.tensor(place), inputs, targets.data)

    def _mirror(self, tokens: Tensor) -> Tensor:
        if not self.sides:
            return tokens
        return torch.tensor([self.sides.get(token, token) for token in tokens.tolist()])


def _whole(length: float) -> int:
    """Return how many whole numbers lie up to ``length``, but for errors of rounding."""
    return math.floor(length + 1e-6)


def mirror_words(vocabulary: Vocabulary) -> dict[int, int]:
    """Return for the id of "left" that of "right" and the reverse, where both are known."""
    if not all(word in vocabulary for word in _SIDES):
        return {}
    return {vocabulary.id(word): vocabulary.id(other) for word, other in _SIDES.items()}
