"""Exchange of gradients and sums between processes."""

import torch
from torch import nn

from captioning.processes import add_over_processes, process_count
from captioning.training.step_sums import StepSums

_ADDED = ("loss", "nll", "reward")  # each process has its part; other sums are those of all


def add_gradients_over_processes(model: nn.Module, sums: StepSums, *, stop: bool) -> bool:
    """Replace gradients and sums by those of all processes, which add up.

    A weight without a gradient in all processes keeps none, and the optimizer leaves it unchanged.

    Args:
        model: Its gradients are replaced.
        sums: Sums of a step; the parts of this process are replaced.
        stop: Whether this process was asked to stop.

    Returns:
        Whether one of the processes was asked to stop.
    """
    if process_count() == 1:
        return stop
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    grads = [weight.grad for weight in weights]
    present = weights[0].new_tensor([grad is not None for grad in grads])
    parts = [
        (torch.zeros_like(weight) if grad is None else grad).flatten()
        for weight, grad in zip(weights, grads, strict=True)
    ]
    total = add_over_processes(torch.cat([present, *parts]))
    found, flat = total[: len(weights)].tolist(), total[len(weights) :]
    sizes = [weight.numel() for weight in weights]
    for weight, is_found, part in zip(weights, found, flat.split(sizes), strict=True):
        grad = part.view_as(weight)
        if not weight.is_contiguous():
            # Weights of a CNN are in channels-last order. Fused AdamW ignores strides, so the
            # gradient must be in the same order.
            grad = torch.empty_like(weight).copy_(grad)
        weight.grad = grad if is_found else None
    values = torch.tensor(
        [*(getattr(sums, name) for name in _ADDED), stop], dtype=torch.float64, device=flat.device
    )
    *added, stopping = add_over_processes(values).tolist()
    for name, value in zip(_ADDED, added, strict=True):
        setattr(sums, name, value)
    return bool(stopping)
