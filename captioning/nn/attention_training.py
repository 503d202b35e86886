"""Soft attention in teacher forcing: without large temporaries, with a backward pass of its own."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from captioning.nn.attention import SoftAttention

_BLOCK_BYTES = 1 << 21
"""Size of a temporary that stays in the cache of a CPU."""


class GridRows:
    """Grid of the image of each caption, to which all steps of teacher forcing attend.

    With keys k and queries q, the energies of :class:`SoftAttention` are::

        tanh(k + q) = 1 - 2 s,     s = u / (u + y),     u = exp(-2k),     y = exp(2q)
        e_p         = sum_a w_a tanh(k_pa + q_a) = sum_a w_a - 2 sum_a w_a s_pa

    u is computed once per image and y once per row, so no exponential is computed for a pair of
    row and position. The softmax ignores the sum of w. The values s are computed in blocks of a few
    rows, and again in the backward pass, so no step allocates a tensor with ``N P A`` values.

    Args:
        attention: The weights.
        a: Projected grid positions of each image.
        keys: Attention keys of each image.
        image: Index of the image of each caption, longest caption first.
    """

    def __init__(
        self,
        attention: SoftAttention,
        a: Float[Tensor, "B P A"],
        keys: Float[Tensor, "B P A"],
        image: Int[Tensor, " N"],
    ) -> None:
        self._attention = attention
        self._u = _NegateAndExponentiate.apply(keys, attention)
        self._a = a.to(self._u.dtype)
        self._image = image

    def attend(self, h: Float[Tensor, "N H"]) -> tuple[Float[Tensor, "N A"], Float[Tensor, "N P"]]:
        """Return the context vector z of the first N rows and their attention weights alpha."""
        q, w_e = self._attention.W_he(h), self._attention.w_e.weight[0]
        y = self._attention.exponentiate(q.detach())
        image = self._image[: len(h)]
        z, alpha, self._u, self._a = _Attend.apply(q, y, w_e, self._u, self._a, image)
        return z.to(q.dtype), alpha


class _NegateAndExponentiate(torch.autograd.Function):
    """u. Its gradient is that of the keys divided by ``4 w_e``, the sum in :class:`_Attend`."""

    @staticmethod
    def forward(ctx: Any, keys: Tensor, attention: SoftAttention) -> Tensor:
        ctx.save_for_backward(attention.w_e.weight)
        ctx.dtype = keys.dtype
        return attention.exponentiate(-keys)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (w_e,) = ctx.saved_tensors
        return gradient.mul(4 * w_e[0]).to(ctx.dtype), None


class _Attend(torch.autograd.Function):
    """One step of attention.

    The step returns u and a too, for the next step to read. So its backward pass receives the sum
    of their gradients over the later steps, and adds its own in place.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, y: Tensor, w_e: Tensor, u: Tensor, a: Tensor, image: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        z, alpha = torch.empty_like(y), u.new_empty(len(y), u.shape[1])
        with torch.autocast(u.device.type, enabled=False):
            for rows, block, s in _blocks(u, len(y), 2):
                torch.index_select(u, 0, image[rows], out=block)
                _divide_by_sum(block, y[rows], s)
                energies = torch.mv(s.flatten(0, 1), w_e).mul_(-2)
                torch.softmax(energies.view(-1, u.shape[1]), 1, out=alpha[rows])
                torch.index_select(a, 0, image[rows], out=block)
                torch.bmm(alpha[rows].unsqueeze(1), block, out=z[rows].unsqueeze(1))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y, w_e, u, a, image, alpha)
        ctx.dtype = q.dtype
        return z, alpha, u, a

    @staticmethod
    def backward(
        ctx: Any, dz: Tensor | None, dalpha: Tensor | None, du: Tensor | None, da: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        y, w_e, u, a, image, alpha = ctx.saved_tensors
        dz = torch.zeros_like(y) if dz is None else dz
        dalpha = torch.zeros_like(alpha) if dalpha is None else dalpha
        du = torch.zeros_like(u) if du is None else du
        da = torch.zeros_like(a) if da is None else da
        dq, dw = torch.empty_like(y), torch.zeros_like(w_e)
        for rows, block, s, product in _blocks(u, len(y), 3):
            images, weights = image[rows], alpha[rows]
            torch.index_select(a, 0, images, out=block)
            total = torch.bmm(block, dz[rows].unsqueeze(2)).squeeze(2).add_(dalpha[rows])
            denergy = weights * (total - (weights * total).sum(1, keepdim=True))
            torch.mul(weights.unsqueeze(2), dz[rows].unsqueeze(1), out=product)
            da.index_add_(0, images, product)
            torch.index_select(u, 0, images, out=block)
            _divide_by_sum(block, y[rows], s)
            dw.addmv_(s.flatten(0, 1).t(), denergy.view(-1))
            torch.mul(s, denergy.unsqueeze(2), out=product)
            product.addcmul_(product, s, value=-1)  # denergy s (1 - s)
            torch.sum(product, 1, out=dq[rows])
            du.index_add_(0, images, product)
        return dq.mul_(4 * w_e).to(ctx.dtype), None, dw.mul_(-2), du, da, None


def _blocks(u: Tensor, count: int, buffers: int) -> Iterator[tuple[Any, ...]]:
    """Yield blocks of the first ``count`` rows of u, each with buffers of its shape."""
    size = count
    if u.device.type == "cpu":
        size = max(1, _BLOCK_BYTES // (u[0].numel() * u.element_size()))
    memory = u.new_empty(buffers, min(size, count), *u.shape[1:])
    for start in range(0, count, size):
        rows = slice(start, min(start + size, count))
        yield (rows, *memory[:, : rows.stop - start])


def _divide_by_sum(u: Tensor, y: Tensor, out: Tensor) -> None:
    """Write ``u / (u + y)`` to ``out``; y has the same values for all positions."""
    torch.add(u, y.unsqueeze(1), out=out)
    torch.div(u, out, out=out)
