"""The part of a batch that one of several processes computes."""

from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import PackedSequence

from captioning.datasets.batches import Batch
from captioning.nn.shared_draws import BatchPart, Rows


@dataclass(frozen=True)
class OwnBatch:
    """The images and captions of one process.

    Attributes:
        batch: They as a batch. It has as many steps as the whole batch, perhaps without words.
        part: Their rows in the whole batch. None: they are the whole batch.
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


def select_part(batch: Batch, index: int, count: int) -> OwnBatch:
    """Return the images of a batch that process ``index`` of ``count`` computes.

    The images are divided evenly, and each has all its captions. If there are fewer images than
    processes, some processes compute the first image with a share of 0.
    """
    if count == 1:
        return OwnBatch(batch)
    total = len(batch.images)
    start, end = total * index // count, total * (index + 1) // count
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
