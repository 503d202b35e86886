"""Linear maps of all steps of a recurrent network, with one product for a weight's gradient."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class StepLinear(TorchFunctionMode):
    """Computes the gradient of each weight of ``linear`` over all steps at once.

    Without it, each step computes a product of few rows and adds a matrix of the weight's size to
    the gradient. Under autocast, a weight is converted once. Within the context, each weight must
    be used once per step.

    Args:
        sizes: Number of rows of each step.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self._sizes = list(sizes)
        self._weights: dict[int, _Steps] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replace ``linear``; call every other function."""
        if func is nn.functional.linear and torch.is_grad_enabled():
            return self._multiply(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if id(weight) not in self._weights:
            self._weights[id(weight)] = _Steps(weight, self._sizes)
        y = self._weights[id(weight)].multiply(x)
        return y if bias is None else y + bias.to(y.dtype)


class _Steps:
    """Steps of one weight."""

    def __init__(self, weight: Tensor, sizes: list[int]) -> None:
        device = weight.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else weight.dtype
        self._parameter = weight  # keeps its id
        self._weight = weight.detach().to(dtype)
        self._inputs: list[Tensor] = []
        self._outputs = _WeightGradient.apply(weight, self._inputs, sum(sizes), dtype).split(sizes)

    def multiply(self, x: Tensor) -> Tensor:
        """Return ``x W^T``."""
        y = self._outputs[len(self._inputs)]
        x = x.to(self._weight.dtype)
        self._inputs.append(x.detach())
        return _Product.apply(x, y, self._weight)


class _WeightGradient(torch.autograd.Function):
    """Zeros to which the products of all steps are added: their gradients arrive together."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, inputs: list[Tensor], rows: int, dtype: torch.dtype
    ) -> Tensor:
        ctx.inputs, ctx.dtype = inputs, weight.dtype
        return weight.new_zeros((), dtype=dtype).expand(rows, len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return (gradient.t() @ torch.cat(ctx.inputs)).to(ctx.dtype), None, None, None


class _Product(torch.autograd.Function):
    """``y + x W^T`` with y = 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return nn.functional.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        (weight,) = ctx.saved_tensors
        return gradient @ weight if ctx.needs_input_grad[0] else None, gradient, None
