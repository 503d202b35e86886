"""Where to look: soft attention over the grid."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class SoftAttention(nn.Module):
    """Additive soft attention (Bahdanau et al. 2015; Xu et al. 2015, section 3.1, equations 4-6).

    With a_p the feature vector at position p and h the hidden state::

        e_p     = w_e . tanh(W_ae a_p + W_he h)
        alpha   = softmax(e)
        context = sum_p alpha_p a_p

    ``W_ae a_p`` does not change with time: it is computed once per image by :meth:`keys`.

    Args:
        feature_size: A, the size of the vector at each position.
        hidden_size: H, the size of the state that asks.
        attention_size: K, the size of the space in which both meet.
    """

    def __init__(self, feature_size: int, hidden_size: int, attention_size: int) -> None:
        super().__init__()
        self.W_ae = nn.Linear(feature_size, attention_size, bias=False)
        self.W_he = nn.Linear(hidden_size, attention_size)
        self.w_e = nn.Linear(attention_size, 1, bias=False)

    def keys(self, grid: Float[Tensor, "B P A"]) -> Float[Tensor, "B P K"]:
        """Return ``W_ae a`` for every position."""
        return self.W_ae(grid)

    def forward(
        self,
        grid: Float[Tensor, "N P A"],
        keys: Float[Tensor, "N P K"],
        h: Float[Tensor, "N H"],
    ) -> tuple[Float[Tensor, "N A"], Float[Tensor, "N P"]]:
        """Return the context vector of each row and the weights alpha it was made with."""
        energies = self.w_e(torch.tanh(keys + self.W_he(h).unsqueeze(1))).squeeze(2)
        alpha = torch.softmax(energies.float(), 1)
        context = torch.bmm(alpha.to(grid.dtype).unsqueeze(1), grid).squeeze(1)
        return context, alpha
