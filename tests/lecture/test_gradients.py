"""Gradient flow against explicit products of Jacobians."""

import pytest
import torch

from captioning.errors import ConfigError
from captioning.lecture.gradients import gradient_flow
from captioning.nn.cells import CELLS, build_cell

T, E, H, D = 6, 4, 5, 3


def build_random_cell(name, scale=0.7, image_size=None):
    torch.manual_seed(0)
    cell = build_cell(name, E, H, image_size).double()
    for weight in cell.parameters():
        torch.nn.init.normal_(weight, std=scale)
    return cell


def random_inputs(steps=T):
    return torch.randn(steps, E, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def weighted_sum(h):
    return (h * torch.arange(1.0, len(h) + 1).to(h)).sum()


@pytest.mark.parametrize("name", CELLS)
def test_gradient_norms_equal_product_of_jacobians(name):
    """Each Jacobian comes from automatic differentiation of a single step."""
    cell, x = build_random_cell(name), random_inputs()
    flow = gradient_flow(cell, x, weighted_sum)
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
def test_gradient_norm_is_within_bound(name, scale):
    flow = gradient_flow(build_random_cell(name, scale), random_inputs(30), weighted_sum)
    assert (flow.hidden <= flow.bound * (1 + 1e-9)).all()
    assert flow.bound[-1] == flow.hidden[-1]


@pytest.mark.parametrize("radius", [0.5, 1.0, 2.0])
def test_gradient_of_scaled_orthogonal_matrix_is_power(radius):
    """All inputs and h are zero, where tanh has slope one, so the bound is exact."""
    cell = build_random_cell("rnn", 0.0)
    with torch.no_grad():
        torch.nn.init.orthogonal_(cell.W_hh)
        cell.W_hh.mul_(radius)
    flow = gradient_flow(cell, random_inputs(20), weighted_sum)
    torch.testing.assert_close(flow.singular_value, torch.tensor([radius]).double())
    expected = flow.hidden[-1] * radius ** torch.arange(19, -1, -1).double()
    torch.testing.assert_close(flow.hidden, expected)
    torch.testing.assert_close(flow.bound, flow.hidden)


def test_gradient_flow_depends_on_image_not_on_frozen_weights():
    cell, x = build_random_cell("gru", image_size=D), random_inputs()
    v = torch.ones(D, dtype=torch.float64)
    without, flow = gradient_flow(cell, x, weighted_sum), gradient_flow(cell, x, weighted_sum, v=v)
    assert not torch.allclose(without.hidden, flow.hidden)
    with torch.no_grad():
        frozen = gradient_flow(cell.requires_grad_(False), x, weighted_sum, v=v)
    torch.testing.assert_close(frozen.hidden, flow.hidden)
    assert len(frozen.singular_value) == cell.gate_count


def test_gradient_flow_empty_sequence_raises():
    with pytest.raises(ConfigError, match="sequence is empty"):
        gradient_flow(build_random_cell("rnn"), random_inputs()[:0], weighted_sum)
