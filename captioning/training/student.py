"""What is trained, between the cache and the words."""

import torch
from torch import Tensor, nn

from captioning.data.features import FeatureCache
from captioning.nn.decoder import Decoder
from captioning.nn.features import Features
from captioning.nn.tail import EncoderTail


class Student(nn.Module):
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

    def look(self, cache: FeatureCache, images: Tensor, mirrored: Tensor | None = None) -> Features:
        """Return what the decoder needs of some cached pictures.

        Args:
            cache: Of all pictures.
            images: Their places in it.
            mirrored: 1 for each picture to be looked at mirrored.
        """
        grid = cache.read(images, mirrored).to(self.device)
        if self.tail is not None:
            grid = self.tail(grid).float()
        return Features(grid.mean(1), grid if self.decoder.config.attention else None)
