"""Soft attention in teacher forcing: without large temporaries, with a backward pass of its own."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
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
    row and position. The sum of w does not change the softmax and is omitted. The values s are
    computed in blocks of a few rows, and again in the backward pass, so no step allocates a tensor
    with ``N P A`` values. The rows of an image read the same u and a.

    Args:
        attention: The weights.
        a: Projected grid positions of each image.
        keys: Attention keys of each image.
        image: Index of the image of each caption, longest caption first.
        padding: True for positions that get the weight 0. Each image has at least one other
            position.
    """

    def __init__(
        self,
        attention: SoftAttention,
        a: Float[Tensor, "B P A"],
        keys: Float[Tensor, "B P A"],
        image: Int[Tensor, " N"],
        padding: Bool[Tensor, "B P"] | None = None,
    ) -> None:
        self._attention = attention
        # Images in the order of their longest caption, so that those of each step come first.
        images, image = _rank(image)
        a, keys = a.index_select(0, images), keys.index_select(0, images)
        self._u = _NegateAndExponentiate.apply(keys, attention)
        self._a = a.to(self._u.dtype)
        self._image = image  # on the CPU
        self._padding = None if padding is None else padding.index_select(0, images)

    def attend(self, h: Float[Tensor, "N H"]) -> tuple[Float[Tensor, "N A"], Float[Tensor, "N P"]]:
        """Return the context vector z of the first N rows and their attention weights alpha."""
        q, w_e = self._attention.W_he(h), self._attention.w_e.weight[0]
        image = self._image[: len(h)]
        order = image.argsort(stable=True)  # rows of an image become neighbors
        groups = _Groups(image.bincount().tolist(), order.to(h.device), self._padding)
        y = self._attention.exponentiate(q.detach()).index_select(0, groups.order)
        z, alpha, self._u, self._a = _Attend.apply(q, y, w_e, self._u, self._a, groups)
        return z, alpha


def _rank(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the images in the order in which they occur, and the place of each row's image."""
    place: dict[int, int] = {}
    places = [place.setdefault(number, len(place)) for number in image.tolist()]
    return torch.tensor(list(place), device=image.device), torch.tensor(places)


class _Groups:
    """Neighboring images with the same number of rows, which one product covers.

    Args:
        counts: Number of rows of each image.
        order: Rows in the order of their images.
        padding: Positions of each image that are padding.
    """

    def __init__(self, counts: list[int], order: Tensor, padding: Tensor | None) -> None:
        self.order, self.back = order, order.argsort()
        self._counts = counts
        self._padding = padding

    def split(self, limit: int) -> Iterator[tuple[slice, slice, tuple[int, int]]]:
        """Yield images, rows, and ``(images, rows of each)`` for groups of at most ``limit`` rows.

        A group has at least one image.
        """
        image = row = 0
        for count, group in itertools.groupby(self._counts):
            end = image + len(list(group))
            while image < end:
                size = min(max(1, limit // count), end - image)
                yield slice(image, image + size), slice(row, row + size * count), (size, count)
                image, row = image + size, row + size * count

    def mask_(self, energies: Float[Tensor, "N P"]) -> None:
        """Set the energies of padding to minus infinity, so that its weights are 0."""
        if self._padding is not None:
            for images, rows, shape in self.split(len(energies)):
                block = energies[rows].unflatten(0, shape)
                block.masked_fill_(self._padding[images].unsqueeze(1), -torch.inf)

    def blocks(
        self, u: Tensor, y: Tensor
    ) -> Iterator[tuple[slice, slice, Float[Tensor, "B R P A"]]]:
        """Yield images, rows, and ``s = u / (u + y)`` for groups whose values fit in a cache."""
        limit = _BLOCK_BYTES if u.device.type == "cpu" else 16 * _BLOCK_BYTES
        most = max(1, limit // (u[0].numel() * u.element_size()))  # rows
        buffer = u.new_empty(max([most, *self._counts]), *u.shape[1:])
        for images, rows, shape in self.split(most):
            block = u[images].unsqueeze(1)
            s = buffer[: rows.stop - rows.start].unflatten(0, shape)
            torch.add(block, y[rows].unflatten(0, shape).unsqueeze(2), out=s)
            yield images, rows, torch.div(block, s, out=s)


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
    of their gradients over the later steps, and adds its own in place. Within the step, the rows
    are in the order of their images.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, y: Tensor, w_e: Tensor, u: Tensor, a: Tensor, groups: _Groups
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        z, energies, w = torch.empty_like(y), u.new_empty(len(y), u.shape[1]), -2 * w_e
        with torch.autocast(u.device.type, enabled=False):
            for _, rows, s in groups.blocks(u, y):
                torch.mv(s.flatten(0, 2), w, out=energies[rows].view(-1))
            groups.mask_(energies)
            alpha = torch.softmax(energies, 1)
            for images, rows, shape in groups.split(len(y)):
                weights = alpha[rows].unflatten(0, shape)
                torch.bmm(weights, a[images], out=z[rows].unflatten(0, shape))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y, w_e, u, a, alpha)
        ctx.groups, ctx.dtype = groups, q.dtype
        z, alpha = z.index_select(0, groups.back), alpha.index_select(0, groups.back)
        return z.to(q.dtype), alpha, u, a

    @staticmethod
    def backward(
        ctx: Any, dz: Tensor | None, dalpha: Tensor | None, du: Tensor | None, da: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        y, w_e, u, a, alpha = ctx.saved_tensors
        order, back = ctx.groups.order, ctx.groups.back
        dz = torch.zeros_like(y) if dz is None else dz.index_select(0, order).to(y.dtype)
        total = torch.zeros_like(alpha) if dalpha is None else dalpha.index_select(0, order)
        du = torch.zeros_like(u) if du is None else du
        da = torch.zeros_like(a) if da is None else da
        for images, rows, shape in ctx.groups.split(len(y)):
            weights, dz_group = (x[rows].unflatten(0, shape) for x in (alpha, dz))
            total[rows].unflatten(0, shape).baddbmm_(dz_group, a[images].transpose(1, 2))
            da[images].baddbmm_(weights.transpose(1, 2), dz_group)
        denergy = alpha * (total - (alpha * total).sum(1, keepdim=True))
        dq, dw = torch.empty(2, *y.shape, dtype=y.dtype, device=y.device)
        for images, rows, s in ctx.groups.blocks(u, y):
            block = denergy[rows]
            torch.bmm(block.unsqueeze(1), s.flatten(0, 1), out=dw[rows].unsqueeze(1))
            # denergy s (1 - s)
            torch.ops.aten.sigmoid_backward(
                block.view(*s.shape[:3], 1).expand_as(s), s, grad_input=s
            )
            torch.sum(s, 2, out=dq[rows].unflatten(0, s.shape[:2]))
            du[images].add_(s[:, 0] if s.shape[1] == 1 else s.sum(1))
        dq = dq.mul_(4 * w_e).index_select(0, back).to(ctx.dtype)
        return dq, None, dw.sum(0).mul_(-2), du, da, None
