"""The gradient of a last step, against products of Jacobians written out."""

import pytest
import torch

from captioning.errors import ConfigError
from captioning.lecture.gradients import gradient_flow
from captioning.nn.cells import CELLS, build_cell

T, E, H, D = 6, 4, 5, 3


def build(name, scale=0.7, image_size=None):
    torch.manual_seed(0)
    cell = build_cell(name, E, H, image_size).double()
    for weight in cell.parameters():
        torch.nn.init.normal_(weight, std=scale)
    return cell


def sequence(steps=T):
    return torch.randn(steps, E, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def last(h):
    return (h * torch.arange(1.0, len(h) + 1).to(h)).sum()


@pytest.mark.parametrize("name", CELLS)
def test_norms_are_those_of_a_product_of_jacobians(name):
    """Each step's Jacobian by automatic differentiation of that step alone, then multiplied."""
    cell, x = build(name), sequence()
    flow = gradient_flow(cell, x, last)
    state = torch.stack(cell.initial_state(1))[:, 0]
    gates, jacobians = cell.project_input(x), []

    def step(flat, row):
        parts = tuple(part.unsqueeze(0) for part in flat)
        return torch.stack(cell.step(row.unsqueeze(0), parts))[:, 0]

    for row in gates:
        jacobian = torch.autograd.functional.jacobian(lambda s, row=row: step(s, row), state)
        jacobians.append(jacobian.reshape(state.numel(), state.numel()))
        state = step(state, row)
    gradient = torch.zeros(state.numel(), dtype=torch.float64)
    gradient[:H] = torch.arange(1.0, H + 1)
    for k in reversed(range(T)):
        torch.testing.assert_close(flow.hidden[k], gradient[:H].norm())
        if name == "lstm":
            torch.testing.assert_close(flow.memory[k], gradient[H:].norm())
        gradient = jacobians[k].T @ gradient
    assert (flow.memory is None) == (name != "lstm")


@pytest.mark.parametrize("name", ["rnn", "relu_rnn"])
@pytest.mark.parametrize("scale", [0.2, 1.0])
def test_gradient_never_exceeds_the_product_bound(name, scale):
    flow = gradient_flow(build(name, scale), sequence(30), last)
    assert (flow.hidden <= flow.bound * (1 + 1e-9)).all()
    assert flow.bound[-1] == flow.hidden[-1]


def test_bound_is_reached_by_a_cell_that_only_turns():
    """An orthogonal W_hh and slopes of one: nothing shrinks and nothing grows."""
    cell = build("rnn", 0.0)
    with torch.no_grad():
        torch.nn.init.orthogonal_(cell.W_hh)
    flow = gradient_flow(cell, sequence(40), last)  # every h is zero, where tanh has slope one
    torch.testing.assert_close(flow.hidden, flow.hidden[-1].expand(40))
    torch.testing.assert_close(flow.bound, flow.hidden)


@pytest.mark.parametrize(("radius", "vanishes"), [(0.5, True), (2.0, False)])
def test_tanh_cell_vanishes_below_one_and_explodes_above(radius, vanishes):
    cell = build("rnn", 0.0)
    with torch.no_grad():
        torch.nn.init.orthogonal_(cell.W_hh)
        cell.W_hh.mul_(radius)
    flow = gradient_flow(cell, sequence(20), last)
    torch.testing.assert_close(flow.singular_value, torch.tensor([radius]).double())
    expected = flow.hidden[-1] * radius ** torch.arange(19, -1, -1).double()
    torch.testing.assert_close(flow.hidden, expected)
    assert (flow.hidden[0] < flow.hidden[-1]) == vanishes


def test_image_changes_the_flow_and_frozen_weights_do_not():
    cell, x = build("gru", image_size=D), sequence()
    v = torch.ones(D, dtype=torch.float64)
    blind, seeing = gradient_flow(cell, x, last), gradient_flow(cell, x, last, v=v)
    assert not torch.allclose(blind.hidden, seeing.hidden)
    with torch.no_grad():
        frozen = gradient_flow(cell.requires_grad_(False), x, last, v=v)
    torch.testing.assert_close(frozen.hidden, seeing.hidden)
    assert len(frozen.singular_value) == cell.gate_count


def test_gradient_flow_empty_sequence_raises():
    with pytest.raises(ConfigError, match="sequence is empty"):
        gradient_flow(build("rnn"), sequence()[:0], last)
