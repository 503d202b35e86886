"""Gradient flow: norms of the gradient of a final loss at each time step.

Pascanu, Mikolov and Bengio (2013), On the difficulty of training recurrent neural networks,
section 2: the gradient at step k is a product of one Jacobian per later step (equation 5), so it
shrinks or grows exponentially.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from captioning.errors import ConfigError
from captioning.nn.cells import RecurrentCell, ReLURNNCell, RNNCell


@dataclass(frozen=True)
class GradientFlow:
    """Gradient norms of one loss at the states of all steps; T is the last step.

    Attributes:
        hidden: ``|dE_T / dh_k|`` for k = 1 ... T.
        memory: ``|dE_T / dc_k|`` for an LSTM, through later steps only; it is zero at step T,
            because E_T depends on h_T. None for other cells.
        singular_value: Largest singular value of each gate's block of W_hh.
        bound: Upper bound of ``hidden`` for the plain cells (equations 6 and 7):
            ``|dE_T / dh_T| prod_{i=k+1}^{T} |W_hh| max_j |f'_ij|``. None for gated cells.
    """

    hidden: Float[Tensor, " T"]
    memory: Float[Tensor, " T"] | None
    singular_value: Float[Tensor, " gates"]
    bound: Float[Tensor, " T"] | None


def gradient_flow(
    cell: RecurrentCell,
    inputs: Float[Tensor, "T E"],
    loss: Callable[[Float[Tensor, " H"]], Float[Tensor, ""]],
    *,
    v: Float[Tensor, " D"] | None = None,
) -> GradientFlow:
    """Return the gradient norms of a loss at the end of one sequence.

    Args:
        cell: Recurrent cell; its weights get no gradient.
        inputs: x at each step.
        loss: Function from the last hidden state to E_T.
        v: Image vector, for a cell with an image term.

    Raises:
        ConfigError: The sequence is empty.
    """
    if not len(inputs):
        raise ConfigError("the sequence is empty. Give at least one row of inputs.")
    with torch.enable_grad():
        gates = cell.project_input(inputs)
        if v is not None:
            gates = gates + cell.project_image(v.unsqueeze(0))
        # With frozen weights, only a leaf that requires gradients makes autograd record the steps.
        state = tuple(part.clone().requires_grad_() for part in cell.initial_state(1))
        states = []
        for step_gates in gates:
            # Copies separate the gradient of later steps from the path c_k -> h_k within step k.
            state = tuple(part.clone() for part in cell.step(step_gates.unsqueeze(0), state))
            states.append(state)
        end = loss(state[0][0])
        parts = [part for step in states for part in step]
        found = torch.autograd.grad(end, parts, allow_unused=True)
    norms = torch.stack(
        [torch.zeros_like(end) if grad is None else grad.norm() for grad in found]
    ).reshape(len(inputs), -1)
    weights = cell.W_hh.detach().chunk(cell.gate_count)
    singular = torch.stack([torch.linalg.matrix_norm(block, 2) for block in weights])
    hidden = norms[:, 0].detach()
    return GradientFlow(
        hidden,
        norms[:, 1].detach() if cell.state_count > 1 else None,
        singular,
        _bound(cell, [step[0].detach()[0] for step in states], hidden[-1], singular),
    )


def _bound(
    cell: RecurrentCell,
    hidden: list[Float[Tensor, " H"]],
    last: Float[Tensor, ""],
    singular: Float[Tensor, " gates"],
) -> Float[Tensor, " T"] | None:
    if isinstance(cell, RNNCell):
        slopes = torch.stack([(1 - h.square()).max() for h in hidden])
    elif isinstance(cell, ReLURNNCell):
        slopes = torch.stack([(h > 0).any().to(last) for h in hidden])
    else:
        return None
    factors = singular[0] * slopes[1:]
    later = torch.cat([factors, torch.ones_like(last).unsqueeze(0)])
    return last * later.flip(0).cumprod(0).flip(0)
