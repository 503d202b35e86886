"""Recurrent cells with an additional image term.

Every cell except the GRU (see :class:`GRUCell`) computes its pre-activations as

    gates = W_xh x + W_hh h + W_vh v + b

where ``x`` is the input of this step, ``h`` the last hidden state and ``v`` the image vector. The
term ``W_vh v`` does not depend on time: :meth:`RecurrentCell.project_image` computes it once per
image. :meth:`RecurrentCell.project_input` computes ``W_xh x + b`` for all steps in one product.
:meth:`RecurrentCell.step` adds the recurrent term ``W_hh h``. Cells store no state; it is an
argument and a result.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from captioning.errors import ConfigError
from captioning.messages import suggest

CellState = tuple[Float[Tensor, "N H"], ...]
"""``(h,)`` or, for an LSTM, ``(h, c)``. The hidden state comes first."""


class RecurrentCell(nn.Module):
    """Base class of the cells: weights, projections and initialization.

    Input weights are Xavier-uniform. The recurrent block of each gate is orthogonal: its singular
    values are one, so the first gradients neither vanish nor explode (Saxe et al. 2014, section 3).
    Biases are zero.

    Args:
        input_size: E, size of x.
        hidden_size: H, size of h.
        image_size: D, size of v; None for a cell without image term.
    """

    gate_count: ClassVar[int] = 1
    state_count: ClassVar[int] = 1

    def __init__(self, input_size: int, hidden_size: int, image_size: int | None = None) -> None:
        super().__init__()
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            if size < 1:
                raise ConfigError(f"{name} is {size}. Use 1 or more.")
        self.hidden_size = hidden_size
        rows = self.gate_count * hidden_size
        self.W_xh = nn.Parameter(torch.empty(rows, input_size))
        self.W_hh = nn.Parameter(torch.empty(rows, hidden_size))
        self.W_vh = None if image_size is None else nn.Parameter(torch.empty(rows, image_size))
        self.b = nn.Parameter(torch.zeros(rows))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize the weights."""
        for gate in self.W_xh.chunk(self.gate_count):
            nn.init.xavier_uniform_(gate)
        for gate in self.W_hh.chunk(self.gate_count):
            nn.init.orthogonal_(gate)
        if self.W_vh is not None:
            for gate in self.W_vh.chunk(self.gate_count):
                nn.init.xavier_uniform_(gate)
        self.b.zero_()

    def initial_state(self, rows: int) -> CellState:
        """Return the all-zero state of ``rows`` sequences."""
        zero = self.W_hh.new_zeros(rows, self.hidden_size)
        return (zero,) * self.state_count

    def project_input(self, x: Float[Tensor, "*rows E"]) -> Float[Tensor, "*rows kH"]:
        """Return ``W_xh x + b`` for any number of steps; kH is ``gate_count * H``."""
        return nn.functional.linear(x, self.W_xh, self.b)

    def project_image(self, v: Float[Tensor, "B D"]) -> Float[Tensor, "B kH"]:
        """Return ``W_vh v``, which is the same for all steps of an image."""
        if self.W_vh is None:
            raise ConfigError("the cell has no W_vh because it was built without image_size.")
        return nn.functional.linear(v, self.W_vh)

    def step(self, inputs: Float[Tensor, "N kH"], state: CellState) -> CellState:
        """Return the state after one step.

        Args:
            inputs: ``W_xh x + W_vh v + b``.
            state: State after the last step.
        """
        raise NotImplementedError

    def forward(
        self,
        x: Float[Tensor, "B T E"],
        state: CellState | None = None,
        v: Float[Tensor, "B D"] | None = None,
    ) -> tuple[Float[Tensor, "B T H"], CellState]:
        """Run over whole sequences; return all hidden states and the final state."""
        inputs = self.project_input(x)
        if v is not None:
            inputs = inputs + self.project_image(v).unsqueeze(1)
        state = self.initial_state(len(x)) if state is None else state
        hidden = []
        for step_inputs in inputs.unbind(1):
            state = self.step(step_inputs, state)
            hidden.append(state[0])
        return torch.stack(hidden, 1), state


class RNNCell(RecurrentCell):
    """Plain recurrent cell (Elman 1990) with the image term.

    ``h' = tanh(W_xh x + W_hh h + W_vh v + b)``
    """

    def step(self, inputs: Float[Tensor, "N kH"], state: CellState) -> CellState:
        """Return the state after one step."""
        (h,) = state
        return (torch.tanh(inputs + nn.functional.linear(h, self.W_hh)),)


class ReLURNNCell(RecurrentCell):
    """Plain cell with a rectifier, whose recurrent weights start as the identity.

    ``h' = max(0, W_xh x + W_hh h + W_vh v + b)``

    With the identity, the untrained cell copies its state, so gradients do not vanish over many
    steps (Le, Jaitly & Hinton 2015, IRNN).
    """

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize the weights."""
        super().reset_parameters()
        nn.init.eye_(self.W_hh)

    def step(self, inputs: Float[Tensor, "N kH"], state: CellState) -> CellState:
        """Return the state after one step."""
        (h,) = state
        return (torch.relu(inputs + nn.functional.linear(h, self.W_hh)),)


class GRUCell(RecurrentCell):
    """Gated recurrent unit (Cho et al. 2014), with one recurrent product per step.

    The rows of the weights are r, z, n::

        r  = sigmoid(W_xr x + W_hr h + W_vr v + b_r)
        z  = sigmoid(W_xz x + W_hz h + W_vz v + b_z)
        n  = tanh(W_xn x + W_vn v + b_n + r * (W_hn h + b_hn))
        h' = (1 - z) * n + z * h

    The reset gate r multiplies ``W_hn h + b_hn``, as in cuDNN and ``torch.nn.GRU``. In equation 8
    of the paper it multiplies h, so ``W_hn (r * h)`` is a second product, after that of the gates.
    """

    gate_count: ClassVar[int] = 3

    def __init__(self, input_size: int, hidden_size: int, image_size: int | None = None) -> None:
        super().__init__(input_size, hidden_size, image_size)
        self.b_hn = nn.Parameter(torch.zeros(hidden_size))

    def step(self, inputs: Float[Tensor, "N kH"], state: CellState) -> CellState:
        """Return the state after one step."""
        (h,) = state
        H = self.hidden_size
        recurrent = nn.functional.linear(h, self.W_hh)
        r, z = torch.sigmoid(inputs[:, : 2 * H] + recurrent[:, : 2 * H]).chunk(2, 1)
        n = torch.tanh(inputs[:, 2 * H :] + r * (recurrent[:, 2 * H :] + self.b_hn))
        return (n + z * (h - n),)


class LSTMCell(RecurrentCell):
    """Long short-term memory (Hochreiter & Schmidhuber 1997) with a forget gate (Gers et al. 2000).

    The rows of the weights are f, i, o, g::

        f  = sigmoid(W_xf x + W_hf h + W_vf v + b_f)
        i  = sigmoid(W_xi x + W_hi h + W_vi v + b_i)
        o  = sigmoid(W_xo x + W_ho h + W_vo v + b_o)
        g  = tanh(W_xg x + W_hg h + W_vg v + b_g)
        c' = f * c + i * g
        h' = o * tanh(c')

    The forget bias ``b_f`` starts at one, so that an untrained cell keeps its memory (Jozefowicz et
    al. 2015, section 2.1).
    """

    gate_count: ClassVar[int] = 4
    state_count: ClassVar[int] = 2

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize the weights."""
        super().reset_parameters()
        self.b[: self.hidden_size].fill_(1.0)

    def step(self, inputs: Float[Tensor, "N kH"], state: CellState) -> CellState:
        """Return the state after one step."""
        h, c = state
        gates = inputs + nn.functional.linear(h, self.W_hh)
        fio, g = gates.split([3 * self.hidden_size, self.hidden_size], 1)
        f, i, o = torch.sigmoid(fio).chunk(3, 1)
        c = f * c + i * torch.tanh(g)
        return o * torch.tanh(c), c


CELLS: dict[str, type[RecurrentCell]] = {
    "rnn": RNNCell,
    "relu_rnn": ReLURNNCell,
    "gru": GRUCell,
    "lstm": LSTMCell,
}


def build_cell(
    name: str, input_size: int, hidden_size: int, image_size: int | None = None
) -> RecurrentCell:
    """Return a new cell of type ``name``: ``rnn``, ``relu_rnn``, ``gru`` or ``lstm``."""
    if name not in CELLS:
        raise ConfigError(
            f"unknown cell {name!r}. Use one of {', '.join(CELLS)}.{suggest(name, CELLS)}"
        )
    return CELLS[name](input_size, hidden_size, image_size)
