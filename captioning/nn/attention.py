"""Soft attention over the grid of image features."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class SoftAttention(nn.Module):
    """Additive soft attention (Bahdanau et al. 2015; Xu et al. 2015, section 3.1, equations 4-6).

    With g_p the image features at position p and h the hidden state::

        a_p     = relu(W_a g_p + b_a)
        e_p     = w_e . tanh(W_ae a_p + W_he h + b_e)
        alpha   = softmax(e)
        z       = sum_p alpha_p a_p

    ``a_p`` and the keys ``W_ae a_p`` do not depend on the time step. :meth:`project_grid` and
    :meth:`project_keys` compute them once per image.

    Args:
        feature_size: D, size of the features at each position.
        hidden_size: H, size of the hidden state.
        attention_size: A, size of a and of the energies' hidden layer.
    """

    def __init__(self, feature_size: int, hidden_size: int, attention_size: int) -> None:
        super().__init__()
        self.W_a = nn.Linear(feature_size, attention_size)
        self.W_ae = nn.Linear(attention_size, attention_size, bias=False)
        self.W_he = nn.Linear(hidden_size, attention_size)
        self.w_e = nn.Linear(attention_size, 1, bias=False)

    def project_grid(self, grid: Float[Tensor, "B P D"]) -> Float[Tensor, "B P A"]:
        """Return a for every position."""
        return torch.relu(self.W_a(grid))

    def project_keys(self, a: Float[Tensor, "B P A"]) -> Float[Tensor, "B P A"]:
        """Return ``W_ae a`` for every position."""
        return self.W_ae(a)

    def forward(
        self,
        a: Float[Tensor, "N P A"],
        keys: Float[Tensor, "N P A"],
        h: Float[Tensor, "N H"],
    ) -> tuple[Float[Tensor, "N A"], Float[Tensor, "N P"]]:
        """Return the context vector z of each row and its attention weights alpha."""
        energies = self.w_e(torch.tanh(keys + self.W_he(h).unsqueeze(1))).squeeze(2)
        dtype = torch.promote_types(energies.dtype, torch.float32)  # 16 bits are too coarse
        alpha = torch.softmax(energies, 1, dtype=dtype)
        z = torch.bmm(alpha.to(a.dtype).unsqueeze(1), a).squeeze(1)
        return z, alpha
