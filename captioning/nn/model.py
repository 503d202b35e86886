"""The caption model: an encoder and a decoder that were made for each other."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from captioning.errors import ConfigError
from captioning.nn.decoder import Decoder
from captioning.nn.encoder import Encoder
from captioning.nn.state import DecoderState


def check_device(device: str) -> None:
    """Raise a ConfigError that says what is wrong where ``device`` cannot be used here."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"There is no device {device!r} here: {reason}. Use 'cpu'.") from error


class CaptionModel(nn.Module):
    """A CNN and a recurrent decoder, given to it.

    Args:
        encoder: Pixels to features.
        decoder: Features and words to the next word.

    Raises:
        ConfigError: The decoder expects vectors of another size than the encoder gives.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        if encoder.feature_size != decoder.sizes.feature_size:
            raise ConfigError(
                f"The encoder gives vectors of {encoder.feature_size} numbers, the decoder expects "
                f"{decoder.sizes.feature_size}."
            )
        self.encoder = encoder
        self.decoder = decoder

    def forward(
        self, pixels: UInt8[Tensor, "B 3 S S"], tokens: PackedSequence
    ) -> Float[Tensor, "M V"]:
        """Return the logits of teacher forcing, one row per packed token."""
        return self.decoder(self.encoder(pixels), tokens)

    def start(self, pixels: UInt8[Tensor, "B 3 S S"]) -> DecoderState:
        """Look at the images and return the state before the first word."""
        return self.decoder.start(self.encoder(pixels))
