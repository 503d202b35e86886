import pytest
import torch

from captioning.nn.dropout import Dropout


@pytest.mark.parametrize("p", [0.25, 0.5, 0.9])
def test_dropout_matches_torch_dropout(p):
    x = torch.ones(400, 1000)
    ours, theirs = Dropout(p)(x), torch.nn.Dropout(p)(x)
    for found in (ours, theirs):
        assert (found == 0).float().mean().item() == pytest.approx(p, abs=0.004)
        assert found.mean().item() == pytest.approx(1.0, abs=0.02)
    assert ours.max().item() == pytest.approx(theirs.max().item(), rel=0.02)


def test_dropout_values_are_independent():
    dropped = torch.stack([Dropout(0.5)(torch.ones(64)) == 0 for _ in range(4000)]).float()
    assert (dropped.mean(0) - 0.5).abs().max() < 0.04  # five deviations
    correlation = torch.corrcoef(dropped.T) - torch.eye(64)
    assert correlation.abs().max() < 0.09


def test_dropout_gradient_matches_mask():
    x = torch.randn(50, 7, requires_grad=True)
    y = Dropout(0.4)(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, (y / x).detach(), atol=1e-5, rtol=1e-5)


def test_dropout_evaluation_or_zero_changes_nothing():
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
