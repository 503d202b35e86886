"""The trained part of a model, applied to cached features."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from captioning.features.cache import CacheRows
from captioning.nn.decoder import Decoder
from captioning.nn.features import Features
from captioning.nn.split_encoder import EncoderTail

# cuDNN selects convolution algorithms again for each new batch size: 7 s for an EfficientNet.
_BATCH_MULTIPLES = {"cuda": 16}


class CachedModel(nn.Module):
    """A decoder and, if the encoder is fine-tuned, its last stages.

    Only its input, the output of the frozen encoder stages, is cached; the model itself is not.

    Args:
        decoder: The decoder.
        tail: Last encoder stages, which turn cached rows into the feature grid. None: the grid
            itself is cached.
    """

    def __init__(self, decoder: Decoder, tail: EncoderTail | None = None) -> None:
        super().__init__()
        self.decoder = decoder
        self.tail = tail

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.decoder.embedding.weight.device

    def encode(
        self,
        cache: CacheRows,
        images: Int[Tensor, " B"],
        views: Int[Tensor, " B"] | None = None,
    ) -> Features:
        """Return the features of ``B`` images, as the decoder reads them.

        Args:
            cache: Cached rows of all images.
            images: Row of each image. Rows beyond the end of the cache have no image: v and the
                grid are zero.
            views: View of each image. None: the whole image, not flipped.
        """
        has_image = images < len(cache)
        if not has_image.all():
            return self._encode_with_gaps(cache, images, views, has_image)
        grid = cache.read(images, views).to(self.device)
        if self.tail is not None:
            grid = self.tail(grid).float()
        counts = cache.count_positions(images)
        features = Features.from_grid(grid, None if counts is None else counts.to(self.device))
        return features if self.decoder.config.uses_grid else Features(features.vector)

    def read_vectors(
        self,
        cache: CacheRows,
        rows: Int[np.ndarray, " N"],
        *,
        batch_size: int = 64,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Float[Tensor, "N D"]:
        """Return v of images, without augmentation, on the CPU.

        Args:
            cache: Cached rows of all images.
            rows: Row of each image.
            batch_size: Images per batch.
            on_progress: Called with the number of images read and the number of all, after each
                batch.
        """
        vectors = torch.empty(len(rows), self.decoder.sizes.feature_size)
        for start in range(0, len(rows), batch_size):
            batch = torch.from_numpy(rows[start : start + batch_size])
            vectors[start : start + len(batch)] = self.encode(cache, batch).vector
            on_progress(start + len(batch), len(rows))
        return vectors

    def _encode_with_gaps(
        self, cache: CacheRows, images: Tensor, views: Tensor | None, has_image: Tensor
    ) -> Features:
        """Encode the rows that have an image, and insert zeros for the others."""
        if not has_image.any():
            size = self.decoder.sizes.feature_size
            vector = torch.zeros(len(images), size, device=self.device)
            grid = vector.unsqueeze(1) if self.decoder.config.uses_grid else None
            return Features(vector, grid)
        rows = has_image.nonzero().flatten()
        padded = _pad_to_multiple(rows, _BATCH_MULTIPLES.get(self.device.type, 1))
        found = self.encode(cache, images[padded], None if views is None else views[padded])

        def insert_zeros(tensor: Tensor) -> Tensor:
            zeros = tensor.new_zeros(len(images), *tensor.shape[1:])
            return zeros.index_copy(0, rows.to(self.device), tensor[: len(rows)])

        grid = None if found.grid is None else insert_zeros(found.grid)
        # Images without features keep P positions of zeros: their weights do not matter.
        padding = None if found.padding is None else insert_zeros(found.padding)
        return Features(insert_zeros(found.vector), grid, padding)


def _pad_to_multiple(rows: Int[Tensor, " B"], multiple: int) -> Int[Tensor, " C"]:
    """Return rows, the first repeated until their number is a multiple."""
    missing = -len(rows) % multiple
    return torch.cat([rows, rows[:1].expand(missing)])
