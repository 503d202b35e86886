"""Dropout against its definition and ``torch.nn.Dropout``."""

import pytest
import torch

from captioning.nn.dropout import Dropout


@pytest.mark.parametrize("p", [0.25, 0.5, 0.9])
def test_dropout_matches_torch_dropout(p):
    x = torch.ones(400, 1000)
    y, expected = Dropout(p)(x), torch.nn.Dropout(p)(x)
    for values in (y, expected):
        assert (values == 0).float().mean().item() == pytest.approx(p, abs=0.004)
        assert values.mean().item() == pytest.approx(1.0, abs=0.02)
    assert y.max().item() == pytest.approx(expected.max().item(), rel=0.02)


def test_dropout_values_are_independent():
    drawn = [Dropout(0.5)(torch.ones(20, 64)) for _ in range(200)]
    dropped = (torch.cat(drawn) == 0).float()
    assert (dropped.mean(0) - 0.5).abs().max() < 0.04  # five standard deviations
    correlation = torch.corrcoef(dropped.T) - torch.eye(64)
    assert correlation.abs().max() < 0.09


def test_dropout_gradient_matches_mask():
    x = torch.randn(50, 7, requires_grad=True)
    y = Dropout(0.4)(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, (y / x).detach(), atol=1e-5, rtol=1e-5)


def test_dropout_evaluation_or_zero_returns_input():
    x = torch.randn(9, 5)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


def test_dropout_same_seed_gives_same_mask():
    x = torch.ones(1000)
    torch.manual_seed(3)
    first = Dropout(0.5)(x)
    torch.manual_seed(3)
    assert torch.equal(Dropout(0.5)(x), first)
    assert not torch.equal(Dropout(0.5)(x), first)
