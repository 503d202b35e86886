"""Linear maps of all steps against plain autograd."""

import torch
from torch import nn

from captioning.nn.step_linear import StepLinear

SIZES = (4, 3, 3, 1)


def run_steps(context, dtype=torch.float64):
    """Gradients of two layers in a loop whose state is the input of the next step."""
    torch.manual_seed(0)
    first, second = nn.Linear(5, 5).to(dtype), nn.Linear(5, 5).to(dtype)
    words = torch.randn(sum(SIZES), 5, dtype=dtype, requires_grad=True)
    h, outputs = torch.ones(SIZES[0], 5, dtype=dtype), []
    with context:
        for x in words.split(SIZES):
            h = torch.tanh(x + first(h[: len(x)]))
            outputs.append(nn.functional.linear(h, second.weight, bias=second.bias))
    loss = torch.cat(outputs).sin().sum()
    weights = [words, *first.parameters(), *second.parameters()]
    return [loss, *torch.autograd.grad(loss, weights)]


def test_step_linear_gradients_equal_plain_gradients():
    torch.testing.assert_close(run_steps(StepLinear(SIZES)), run_steps(torch.enable_grad()))


def test_step_linear_bfloat16_gradients_are_near_float32():
    expected = run_steps(torch.enable_grad(), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = run_steps(StepLinear(SIZES), torch.float32)
    for a, b in zip(found[1:], expected[1:], strict=True):
        assert (a - b).norm() < 0.03 * b.norm()
        assert a.dtype == torch.float32


def test_step_linear_without_gradients_runs_linear():
    with torch.no_grad(), StepLinear(SIZES):
        for x in torch.ones(11, 5).split(SIZES):
            assert torch.equal(nn.functional.linear(x, torch.eye(5)), x)
