"""How a loss at the end of a sequence is felt by the steps before it.

Pascanu, Mikolov and Bengio (2013), On the difficulty of training recurrent neural networks,
section 2: the gradient that reaches step k is a product of one Jacobian for each step after it
(equation 5), so it shrinks or grows like a power.
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
    """The gradients of one loss with respect to the states of all steps; T is the last step.

    Attributes:
        hidden: ``|dE_T / dh_k|`` for k = 1 ... T.
        memory: ``|dE_T / dc_k|``, of an LSTM's memory as the later steps read it: zero at the last
            step, since E_T sees h_T alone. None for other cells.
        singular_value: The largest singular value of each gate's block of W_hh.
        bound: For the plain cells, ``|dE_T / dh_T| prod_{i=k+1}^{T} |W_hh| max_j |f'_ij|``, which
            ``hidden`` never exceeds (the paper's equations 6 and 7); None for gated cells, whose
            Jacobian is no such product.
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
    """Run a cell over one sequence and follow the gradient of a loss at its end back in time.

    Args:
        cell: Any recurrent cell; its weights get no gradient.
        inputs: x at each step.
        loss: From the last hidden state to E_T.
        v: The image vector, for a cell that sees one.

    Raises:
        ConfigError: The sequence is empty.
    """
    if not len(inputs):
        raise ConfigError("The sequence has no step. Give at least one row of inputs.")
    with torch.enable_grad():
        gates = cell.project_input(inputs)
        if v is not None:
            gates = gates + cell.project_image(v.unsqueeze(0))
        # A leaf to start from: with frozen weights nothing else would record the steps.
        state = tuple(part.clone().requires_grad_() for part in cell.initial_state(1))
        states = []
        for step_gates in gates:
            # Copies: what c_k did to h_k belongs to step k, what both do later to h_k and c_k.
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
