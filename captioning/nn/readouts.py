"""Readouts: the layer r between the recurrent core and the words.

The decoder maps r to logits: ``W_rw r + b_w``.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from captioning.nn.decoder_config import DecoderConfig, ReadoutName
from captioning.nn.dropout import Dropout
from captioning.nn.state import add_image_term


class LinearReadout(nn.Module):
    """Linear layer of the core's outputs h and z.

    ::

        r = W_hr h + W_zr z + b_r
        r = tanh(W_hr h + W_zr z + W_vr v + b_r)         with the injection merge

    Args:
        config: Configuration of the decoder.
        z_size: Size of z; None for a core without z.
    """

    reads_word: ClassVar[bool] = False

    def __init__(self, config: DecoderConfig, z_size: int | None) -> None:
        super().__init__()
        E = config.embedding_size
        self.W_xr = nn.Linear(E, E, bias=False) if self.reads_word else None
        self.W_zr = None if z_size is None else nn.Linear(z_size, E, bias=False)
        self.W_hr = nn.Linear(config.hidden_size, E)
        self.dropout = Dropout(config.dropout, "tokens")

    def forward(
        self,
        h: Float[Tensor, "M H"],
        z: Float[Tensor, "M Z"] | None,
        word: Float[Tensor, "M E"] | None,
        image: Float[Tensor, "B E"] | None,
    ) -> Float[Tensor, "M E"]:
        """Return r.

        Args:
            h: Hidden states.
            z: Second output of the core.
            word: ``W_xr x`` of the last words, for a readout that reads them.
            image: ``W_vr v`` of the injection merge; M / B consecutive rows have one image.
        """
        r = self.W_hr(self.dropout(h))
        if self.W_zr is not None:
            r = r + self.W_zr(self.dropout(z))
        if word is not None:
            r = r + word
        return r if image is None else self.activate(add_image_term(r, image))

    def activate(self, r: Float[Tensor, "M E"]) -> Float[Tensor, "M E"]:
        """Apply the activation that follows the addition of v."""
        return torch.tanh(r)


class DeepReadout(LinearReadout):
    """Readout that sees the last word x too (Xu et al. 2015, equation 7).

    ``r = W_hr h + W_zr z + W_xr x + b_r``
    """

    reads_word = True


class MultimodalReadout(DeepReadout):
    """Multimodal layer of word, hidden state and image (Mao et al. 2014, section 3).

    ::

    r    = g(W_hr h + W_xr x + W_vr v + b_r)
    g(y) = 1.7159 tanh(2y/3)                         LeCun et al. 1998, section 4.4
    """

    def activate(self, r: Float[Tensor, "M E"]) -> Float[Tensor, "M E"]:
        """Apply g."""
        return 1.7159 * torch.tanh(r * (2 / 3))


READOUTS: dict[ReadoutName, type[LinearReadout]] = {
    "linear": LinearReadout,
    "deep": DeepReadout,
    "multimodal": MultimodalReadout,
}
