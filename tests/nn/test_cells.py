"""Recurrent cells against their published equations in NumPy and against ``torch.nn``."""

import numpy as np
import pytest
import torch
from numpy_cells import step_cell
from torch import nn

from captioning.errors import ConfigError
from captioning.nn.cells import CELLS, RecurrentCell, build_cell

B, T, E, H, D = 3, 5, 4, 6, 7
each_cell = pytest.mark.parametrize("name", CELLS)


def random_cell(name: str, image_size: int | None = D) -> RecurrentCell:
    """A cell with all weights random, biases included, in float64."""
    cell = build_cell(name, E, H, image_size).double()
    for weight in cell.parameters():
        nn.init.normal_(weight, std=0.7)
    return cell


@each_cell
def test_cell_step_follows_published_equations(name):
    cell = random_cell(name)
    x = torch.randn(B, T, E, dtype=torch.float64)
    v = torch.randn(B, D, dtype=torch.float64)
    first = tuple(torch.randn(B, H, dtype=torch.float64) for _ in range(cell.state_count))
    w = {key: weight.detach().numpy() for key, weight in cell.named_parameters()}
    with torch.no_grad():
        hidden, last = cell(x, first, v)
    for i in range(B):
        state = tuple(part[i].numpy() for part in first)
        for t in range(T):
            state = step_cell(name, w, x[i, t].numpy(), state, w["W_vh"] @ v[i].numpy())
            np.testing.assert_allclose(hidden[i, t].numpy(), state[0], rtol=0, atol=1e-12)
        for part, expected in zip(last, state, strict=True):
            np.testing.assert_allclose(part[i].numpy(), expected, rtol=0, atol=1e-12)


def build_torch_module(name: str, cell: RecurrentCell) -> nn.RNNBase:
    """The module of ``torch.nn`` with the same weights; the gates of its LSTM are i, f, g, o."""
    if name == "lstm":
        module, order = nn.LSTM(E, H, batch_first=True), [1, 0, 3, 2]
    elif name == "gru":
        module, order = nn.GRU(E, H, batch_first=True), [0, 1, 2]
    else:
        kind = "tanh" if name == "rnn" else "relu"
        module, order = nn.RNN(E, H, batch_first=True, nonlinearity=kind), [0]

    def reorder(weight):
        return torch.cat([weight.chunk(len(order))[i] for i in order])

    module = module.double()
    with torch.no_grad():
        module.weight_ih_l0.copy_(reorder(cell.W_xh))
        module.weight_hh_l0.copy_(reorder(cell.W_hh))
        module.bias_ih_l0.copy_(reorder(cell.b))
        module.bias_hh_l0.zero_()
        if name == "gru":
            module.bias_hh_l0[2 * H :] = cell.b_hn
    return module


@each_cell
def test_cell_without_image_matches_torch(name):
    cell = random_cell(name)
    x = torch.randn(B, T, E, dtype=torch.float64, requires_grad=True)
    expected, _ = build_torch_module(name, cell)(x)
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
    assert set(CELLS) == {"rnn", "relu_rnn", "gru", "lstm"}


def test_cell_without_image_size_rejects_image():
    with pytest.raises(ConfigError, match="built without image_size"):
        build_cell("gru", E, H).project_image(torch.zeros(B, D))
