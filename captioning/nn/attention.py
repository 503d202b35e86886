"""Soft attention over the grid of image features."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

_EXPONENT_MAX = 43.0
"""exp(2 * 43) and exp(-2 * 43) are normal numbers in float32."""
_BLOCK = 1_500_000  # values; 6 MB in float32
_ROWS = 64  # BLAS computes the last rows in another order if their number is not a multiple


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
        a: Float[Tensor, "B P A"],
        keys: Float[Tensor, "B P A"],
        h: Float[Tensor, "N H"],
        padding: Bool[Tensor, "B P"] | None = None,
    ) -> tuple[Float[Tensor, "N A"], Float[Tensor, "N P"]]:
        """Return the context vector z of each row and its attention weights alpha.

        Args:
            a: Projected positions of each image.
            keys: ``W_ae a``.
            h: Hidden states: N / B consecutive rows for each image.
            padding: True for positions that get the weight 0. Each image has at least one other
                position.
        """
        queries = self.W_he(h).unflatten(0, (len(a), -1))
        energies = self.w_e(torch.tanh(keys.unsqueeze(1) + queries.unsqueeze(2))).squeeze(3)
        return _average(a, energies, padding)

    # --- in a search --------------------------------------------------------------------------

    def exponentiate(self, x: Float[Tensor, "*rows A"]) -> Float[Tensor, "*rows A"]:
        """Return exp(2x), for keys and queries, in at least float32.

        x is limited to -43 to 43, so that no result is 0 or infinite. The product of two results
        may be: then tanh is 1 or -1.
        """
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return x.clamp(-_EXPONENT_MAX, _EXPONENT_MAX).mul_(2).exp_()

    def search(
        self,
        a: Float[Tensor, "B P A"],
        exp_keys: Float[Tensor, "B P A"],
        h: Float[Tensor, "N H"],
        padding: Bool[Tensor, "B P"] | None = None,
    ) -> tuple[Float[Tensor, "N A"], Float[Tensor, "N P"]]:
        """Return the same as :meth:`forward`, without gradients, much faster.

        With key k and query q::

            tanh(k + q) = 1 - 2 / (1 + exp(2k) exp(2q))

        The sum of ``w_e`` is the same at all positions, so it does not change the softmax and is
        omitted. For each row, position and channel, a step computes a division instead of a tanh.
        Blocks of images keep the temporary values in the CPU's cache.

        Args:
            a: Projected positions of each image.
            exp_keys: Result of :meth:`exponentiate` for the keys.
            h: Hidden states: N / B consecutive rows for each image.
            padding: As in :meth:`forward`.
        """
        B, P, A = a.shape
        exp_queries = self.exponentiate(self.W_he(h)).view(B, -1, 1, A)
        exp_keys = exp_keys.unsqueeze(1)
        W = exp_queries.shape[1]
        weights = self.w_e.weight.to(exp_keys.dtype)[0] * -2
        one = exp_keys.new_ones(())
        energies = exp_keys.new_empty(B, W, P)
        images = min(B, max(1, (_BLOCK if a.device.type == "cpu" else 32 * _BLOCK) // (W * P * A)))
        buffer = exp_keys.new_zeros(_pad(images * W * P), A)
        sums = exp_keys.new_empty(len(buffer))
        for start in range(0, B, images):
            block = slice(start, min(start + images, B))
            count = (block.stop - start) * W * P
            out = buffer[:count].view(-1, W, P, A)
            torch.addcmul(one, exp_keys[block], exp_queries[block], out=out).reciprocal_()
            padded = _pad(count)  # so that energies do not depend on the batch
            torch.mv(buffer[:padded], weights, out=sums[:padded])
            energies[block] = sums[:count].view(-1, W, P)
        return _average(a, energies, padding)


def _pad(rows: int) -> int:
    """Return the next multiple of ``_ROWS``."""
    return -(-rows // _ROWS) * _ROWS


def _average(
    a: Float[Tensor, "B P A"],
    energies: Float[Tensor, "B W P"],
    padding: Bool[Tensor, "B P"] | None,
) -> tuple[Float[Tensor, "N A"], Float[Tensor, "N P"]]:
    """Return the mean of the positions weighted by the softmax of the energies, and the weights.

    W is the number of rows per image.
    """
    dtype = torch.promote_types(energies.dtype, torch.float32)  # 16 bits are too coarse
    if padding is not None:
        energies = energies.masked_fill(padding.unsqueeze(1), -torch.inf)
    alpha = torch.softmax(energies, 2, dtype=dtype)
    z = torch.bmm(alpha.to(a.dtype), a)
    return z.flatten(0, 1), alpha.flatten(0, 1)
