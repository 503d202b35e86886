import pytest
import torch

from captioning.nn.dropout import Dropout


@pytest.mark.parametrize("p", [0.25, 0.5, 0.9])
def test_share_and_scale_are_those_of_torchs_own(p):
    x = torch.ones(400, 1000)
    ours, theirs = Dropout(p)(x), torch.nn.Dropout(p)(x)
    for found in (ours, theirs):
        assert (found == 0).float().mean().item() == pytest.approx(p, abs=0.004)
        assert found.mean().item() == pytest.approx(1.0, abs=0.02)
    assert ours.max().item() == pytest.approx(theirs.max().item(), rel=0.02)


def test_every_place_is_dropped_as_often_and_independently_of_its_neighbours():
    dropped = torch.stack([Dropout(0.5)(torch.ones(64)) == 0 for _ in range(4000)]).float()
    assert (dropped.mean(0) - 0.5).abs().max() < 0.04  # five deviations
    correlation = torch.corrcoef(dropped.T) - torch.eye(64)
    assert correlation.abs().max() < 0.09


def test_gradient_passes_where_the_number_did():
    x = torch.randn(50, 7, requires_grad=True)
    y = Dropout(0.4)(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, (y / x).detach(), atol=1e-5, rtol=1e-5)


def test_nothing_is_dropped_in_use_or_at_zero():
    x = torch.randn(9, 5)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


def test_same_seed_drops_the_same():
    x = torch.ones(1000)
    torch.manual_seed(3)
    first = Dropout(0.5)(x)
    torch.manual_seed(3)
    assert torch.equal(Dropout(0.5)(x), first)
    assert not torch.equal(Dropout(0.5)(x), first)
