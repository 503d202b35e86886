"""Caption model: an encoder and a decoder."""

from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from captioning.errors import ConfigError
from captioning.nn.decoder import Decoder
from captioning.nn.encoder import Encoder
from captioning.nn.state import DecoderState


class CaptionModel(nn.Module):
    """A CNN encoder and a recurrent decoder.

    Args:
        encoder: From pixels to features.
        decoder: From features and words to the next word.

    Raises:
        ConfigError: The feature sizes of encoder and decoder differ.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        if encoder.feature_size != decoder.sizes.feature_size:
            raise ConfigError(
                f"the encoder has the feature size {encoder.feature_size}, the decoder expects "
                f"{decoder.sizes.feature_size}. Use parts of the same model."
            )
        self.encoder = encoder
        self.decoder = decoder

    def forward(
        self, pixels: UInt8[Tensor, "B 3 S S"], tokens: PackedSequence
    ) -> Float[Tensor, "M V"]:
        """Return the logits of teacher forcing, one row per packed word."""
        return self.decoder(self.encoder(pixels), tokens)

    def start(self, pixels: UInt8[Tensor, "B 3 S S"]) -> DecoderState:
        """Encode images and return the decoder state before the first word."""
        return self.decoder.start(self.encoder(pixels))
