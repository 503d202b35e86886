"""Recurrent cells against their published equations in NumPy and against ``torch.nn``."""

import numpy as np
import pytest
import torch
from torch import nn

from captioning.errors import ConfigError
from captioning.nn.cells import CELLS, RecurrentCell, build_cell

B, T, E, H, D = 3, 5, 4, 6, 7
each_cell = pytest.mark.parametrize("name", ["rnn", "relu_rnn", "gru", "lstm"])


def random_cell(name: str, image_size: int | None = D) -> RecurrentCell:
    """A cell with all weights random, biases included, in float64."""
    cell = build_cell(name, E, H, image_size).double()
    for weight in cell.parameters():
        nn.init.normal_(weight, std=0.7)
    return cell


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def rows(cell, names):
    """Each gate's W_x, W_h, W_v and b, by the gate's letter."""
    weights = [
        getattr(cell, name).detach().numpy().reshape(len(names), H, -1)
        for name in ("W_xh", "W_hh", "W_vh", "b")
    ]
    return {gate: [w[i] for w in weights] for i, gate in enumerate(names)}


def published_rnn(cell, x, v, h, activation):
    W_x, W_h, W_v, b = rows(cell, "h")["h"]
    return (activation(W_x @ x + W_h @ h + W_v @ v + b[:, 0]),)


def published_gru(cell, x, v, h):
    gates = rows(cell, "rzn")
    b_hn = cell.b_hn.detach().numpy()
    W_x, W_h, W_v, b = gates["r"]
    r = sigmoid(W_x @ x + W_h @ h + W_v @ v + b[:, 0])
    W_x, W_h, W_v, b = gates["z"]
    z = sigmoid(W_x @ x + W_h @ h + W_v @ v + b[:, 0])
    W_x, W_h, W_v, b = gates["n"]
    n = np.tanh(W_x @ x + W_v @ v + b[:, 0] + r * (W_h @ h + b_hn))
    return ((1 - z) * n + z * h,)


def published_lstm(cell, x, v, h, c):
    a = {
        gate: W_x @ x + W_h @ h + W_v @ v + b[:, 0]
        for gate, (W_x, W_h, W_v, b) in rows(cell, "fiog").items()
    }
    c = sigmoid(a["f"]) * c + sigmoid(a["i"]) * np.tanh(a["g"])
    return sigmoid(a["o"]) * np.tanh(c), c


PUBLISHED = {
    "rnn": lambda cell, x, v, h: published_rnn(cell, x, v, h, np.tanh),
    "relu_rnn": lambda cell, x, v, h: published_rnn(cell, x, v, h, lambda a: np.maximum(0, a)),
    "gru": published_gru,
    "lstm": published_lstm,
}


@each_cell
def test_cell_step_follows_published_equations(name):
    cell = random_cell(name)
    x = torch.randn(B, T, E, dtype=torch.float64)
    v = torch.randn(B, D, dtype=torch.float64)
    first = tuple(torch.randn(B, H, dtype=torch.float64) for _ in range(cell.state_count))
    with torch.no_grad():
        hidden, last = cell(x, first, v)
    for i in range(B):
        state = tuple(part[i].numpy() for part in first)
        for t in range(T):
            state = PUBLISHED[name](cell, x[i, t].numpy(), v[i].numpy(), *state)
            np.testing.assert_allclose(hidden[i, t].numpy(), state[0], rtol=0, atol=1e-12)
        for part, expected in zip(last, state, strict=True):
            np.testing.assert_allclose(part[i].numpy(), expected, rtol=0, atol=1e-12)


def torch_twin(name: str, cell: RecurrentCell) -> nn.RNNBase:
    """The module of ``torch.nn`` with the same weights; its LSTM orders the gates i, f, g, o."""
    if name == "lstm":
        twin, order = nn.LSTM(E, H, batch_first=True), [1, 0, 3, 2]
    elif name == "gru":
        twin, order = nn.GRU(E, H, batch_first=True), [0, 1, 2]
    else:
        kind = "tanh" if name == "rnn" else "relu"
        twin, order = nn.RNN(E, H, batch_first=True, nonlinearity=kind), [0]

    def ordered(weight):
        return torch.cat([weight.chunk(len(order))[i] for i in order])

    twin = twin.double()
    with torch.no_grad():
        twin.weight_ih_l0.copy_(ordered(cell.W_xh))
        twin.weight_hh_l0.copy_(ordered(cell.W_hh))
        twin.bias_ih_l0.copy_(ordered(cell.b))
        twin.bias_hh_l0.zero_()
        if name == "gru":
            twin.bias_hh_l0[2 * H :] = cell.b_hn
    return twin


@each_cell
def test_cell_without_image_matches_torch(name):
    cell = random_cell(name)
    x = torch.randn(B, T, E, dtype=torch.float64, requires_grad=True)
    expected, _ = torch_twin(name, cell)(x)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), x)
    for v in (None, torch.zeros(B, D, dtype=torch.float64)):
        hidden, _ = cell(x, v=v)
        (gradient,) = torch.autograd.grad(hidden.square().sum(), x)
        torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-12)


@each_cell
def test_cell_gradients_match_finite_differences(name):
    cell = random_cell(name)
    names, weights = zip(*cell.named_parameters(), strict=True)
    x = torch.randn(2, 3, E, dtype=torch.float64, requires_grad=True)
    v = torch.randn(2, D, dtype=torch.float64, requires_grad=True)

    def run(x, v, *weights):
        values = dict(zip(names, weights, strict=True))
        hidden, state = torch.func.functional_call(cell, values, (x,), {"v": v})
        return hidden, *state

    assert torch.autograd.gradcheck(run, (x, v, *weights))


@each_cell
def test_cell_initial_weights_are_orthogonal(name):
    cell = build_cell(name, E, H, D)
    for gate in cell.W_hh.chunk(cell.gate_count):
        torch.testing.assert_close(gate @ gate.t(), torch.eye(H), rtol=0, atol=1e-5)
    bias = cell.b.detach().clone()
    if name == "lstm":
        assert (bias[:H] == 1).all()  # the forget gate
        bias = bias[H:]
    assert (bias == 0).all()


def test_relu_cell_untrained_copies_its_state():
    cell = build_cell("relu_rnn", E, H)
    state = (torch.rand(B, H),)
    torch.testing.assert_close(cell.step(torch.zeros(B, H), state), state)


def test_build_cell_invalid_argument_raises():
    with pytest.raises(ConfigError, match=r"unknown cell 'lstn'.*Did you mean 'lstm'"):
        build_cell("lstn", E, H)
    with pytest.raises(ConfigError, match=r"hidden_size is 0\. Use 1 or more"):
        build_cell("gru", E, 0)
    with pytest.raises(ConfigError, match="built without image_size"):
        build_cell("gru", E, H).project_image(torch.zeros(B, D))
    assert set(CELLS) == {"rnn", "relu_rnn", "gru", "lstm"}
