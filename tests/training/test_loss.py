import math

import pytest
import torch

from captioning.training.loss import cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_loss_and_its_gradient_equal_torchs(smoothing):
    logits = torch.randn(7, 11, dtype=torch.float64).float().requires_grad_()
    targets = torch.randint(0, 11, (7,))
    ours = cross_entropy(logits, targets, label_smoothing=smoothing)
    theirs = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=smoothing)
    torch.testing.assert_close(ours.loss, theirs)
    (expected,) = torch.autograd.grad(theirs, logits)
    (found,) = torch.autograd.grad(ours.loss, logits)
    torch.testing.assert_close(found, expected)


def test_likelihood_is_reported_without_smoothing():
    result = cross_entropy(torch.zeros(3, 8), torch.tensor([1, 2, 3]), label_smoothing=0.3)
    assert result.nll.item() == pytest.approx(math.log(8))
    assert result.words == 3
    assert not result.nll.requires_grad
