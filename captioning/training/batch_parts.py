"""The part of a batch that one of several processes computes."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from captioning.datasets.batches import Batch
from captioning.nn.shared_draws import BatchPart, Rows


@dataclass(frozen=True)
class OwnBatch:
    """The images and captions of one process.

    Attributes:
        batch: The images and captions. It has as many steps as the whole batch; the last steps may
            have no words.
        part: Rows of the images and captions in the whole batch. None: there is one process.
    """

    batch: Batch
    part: BatchPart | None = None

    @property
    def token_share(self) -> float:
        """Share of the words of the whole batch."""
        return 1.0 if self.part is None else self.part.share(self.part.tokens)

    @property
    def caption_share(self) -> float:
        """Share of the captions of the whole batch."""
        return 1.0 if self.part is None else self.part.share(self.part.captions)

    @property
    def image_share(self) -> float:
        """Share of the images of the whole batch."""
        return 1.0 if self.part is None else self.part.share(self.part.images)


def select_part(batch: Batch, index: int, count: int, *, by_words: bool = False) -> OwnBatch:
    """Return the images of a batch that process ``index`` of ``count`` computes.

    Each image has all its captions. A process that gets no image computes the first one with a
    share of 0.

    Args:
        batch: The batch of all processes.
        index: Number of the process.
        count: Number of processes.
        by_words: Divide the words of the captions evenly, not the images.
    """
    if count == 1:
        return OwnBatch(batch)
    total = len(batch.images)
    starts = _divide(_count_words(batch) if by_words else torch.ones(total), count)
    start, end = starts[index : index + 2].tolist()
    idle = start == end
    start, end = (0, 1) if idle else (start, end)
    inputs = batch.inputs
    image = batch.image_index  # of each caption, the longest caption first
    if inputs.sorted_indices is not None:
        image = image[inputs.sorted_indices]
    own = (image >= start) & (image < end)
    sizes = inputs.batch_sizes
    of_token = torch.cat([own[:size] for size in sizes.tolist()])
    data = inputs.data[of_token]
    own_sizes = own.cumsum(0)[sizes - 1]
    words = inputs.data.unique()
    part = BatchPart(
        images=Rows(torch.arange(start, end), total),
        captions=Rows(own.nonzero().flatten(), len(own)),
        tokens=Rows(of_token.nonzero().flatten(), len(of_token)),
        words=Rows(torch.searchsorted(words, data.unique()), len(words)),
        sizes=sizes.tolist(),
        idle=idle,
    )
    own_batch = Batch(
        images=batch.images[start:end],
        views=batch.views[start:end],
        image_index=image[own] - start,
        inputs=PackedSequence(data, own_sizes),
        targets=batch.targets[of_token],
    )
    return OwnBatch(own_batch, part)


def _count_words(batch: Batch) -> Float[Tensor, " B"]:
    """Return the number of words in the captions of each image."""
    inputs, images = batch.inputs, batch.image_index
    if inputs.sorted_indices is not None:
        images = images[inputs.sorted_indices]
    of_token = torch.cat([images[:size] for size in inputs.batch_sizes.tolist()])
    return of_token.bincount(minlength=len(batch.images)).float()


def _divide(costs: Float[Tensor, " B"], count: int) -> Int[Tensor, " C"]:
    """Return the first image of each process, and the number of images at the end."""
    middle = costs.cumsum(0) - costs / 2
    process = (middle * count / costs.sum()).long()
    return torch.searchsorted(process, torch.arange(count + 1))
