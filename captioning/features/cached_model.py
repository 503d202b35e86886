"""What is trained, between the cache and the words."""

import torch
from jaxtyping import Int
from torch import Tensor, nn

from captioning.features.cache import CacheRows
from captioning.nn.decoder import Decoder
from captioning.nn.features import Features
from captioning.nn.split_encoder import EncoderTail

# cuDNN prepares all convolutions anew for each new number of images: 7 s for an EfficientNet.
_MULTIPLE_OF = {"cuda": 16}


class CachedModel(nn.Module):
    """What is trained: a decoder and, where the CNN is fine-tuned, the CNN's last stages.

    Args:
        decoder: Features and words to the next word.
        tail: From what is cached to the grid; None where the grid itself is cached.
    """

    def __init__(self, decoder: Decoder, tail: EncoderTail | None = None) -> None:
        super().__init__()
        self.decoder = decoder
        self.tail = tail

    @property
    def device(self) -> torch.device:
        """Where it works."""
        return self.decoder.embedding.weight.device

    def encode(
        self,
        cache: CacheRows,
        images: Int[Tensor, " B"],
        views: Int[Tensor, " B"] | None = None,
    ) -> Features:
        """Return what the decoder needs of some cached images.

        Args:
            cache: Of all images.
            images: Their places in it. Places beyond its end have no image: v and the grid are
                zero there.
            views: Which view of each; the image itself where nothing is given.
        """
        seen = images < len(cache)
        if not seen.all():
            return self._blind(cache, images, views, seen)
        grid = cache.read(images, views).to(self.device)
        if self.tail is not None:
            grid = self.tail(grid).float()
        return Features(grid.mean(1), grid if self.decoder.config.attention else None)

    def _blind(
        self,
        cache: CacheRows,
        images: Tensor,
        views: Tensor | None,
        seen: Tensor,
    ) -> Features:
        """Look at the images that there are, and put zeros in the place of the others."""
        if not seen.any():
            size = self.decoder.config.feature_size
            vector = torch.zeros(len(images), size, device=self.device)
            grid = vector.unsqueeze(1) if self.decoder.config.attention else None
            return Features(vector, grid)
        rows = seen.nonzero().flatten()
        asked = _repeated(rows, _MULTIPLE_OF.get(self.device.type, 1))
        found = self.encode(cache, images[asked], None if views is None else views[asked])

        def spread(those: Tensor) -> Tensor:
            zeros = those.new_zeros(len(images), *those.shape[1:])
            return zeros.index_copy(0, rows.to(self.device), those[: len(rows)])

        return Features(spread(found.vector), None if found.grid is None else spread(found.grid))


def _repeated(places: Int[Tensor, " B"], unit: int) -> Int[Tensor, " C"]:
    """Return ``places``, the first repeated until their number is a multiple of ``unit``."""
    missing = -len(places) % unit
    return torch.cat([places, places[:1].expand(missing)])
