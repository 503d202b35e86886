"""Losses against their equations and ``torch.nn.functional``."""

import math

import pytest
import torch

from captioning.nn.losses import cross_entropy, doubly_stochastic, reconstruction_error


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_cross_entropy_matches_torch(smoothing):
    logits = torch.randn(7, 11, dtype=torch.float64).float().requires_grad_()
    targets = torch.randint(0, 11, (7,))
    result = cross_entropy(logits, targets, label_smoothing=smoothing)
    loss = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=smoothing)
    torch.testing.assert_close(result.loss, loss)
    (expected,) = torch.autograd.grad(loss, logits)
    (gradient,) = torch.autograd.grad(result.loss, logits)
    torch.testing.assert_close(gradient, expected)


def test_cross_entropy_nll_is_unsmoothed():
    result = cross_entropy(torch.zeros(3, 8), torch.tensor([1, 2, 3]), label_smoothing=0.3)
    assert result.nll.item() == pytest.approx(math.log(8))
    assert result.words == 3
    assert not result.nll.requires_grad


def test_doubly_stochastic_counts_unseen_positions():
    """Captions of three and two words over three positions, in packed order."""
    eye = torch.eye(3)
    attention = torch.stack([eye[0], eye[1], eye[1], eye[0], eye[2]])
    # The first attends to 0, 1 and 2: loss 0. The second attends to 1 and 0, not to 2: loss 1.
    assert doubly_stochastic(attention, [2, 2, 1]).item() == pytest.approx(0.5)


def test_doubly_stochastic_follows_published_equation():
    attention = torch.tensor([[0.8, 0.2], [0.6, 0.4], [1.0, 0.0]])
    expected = (1 - 2.4) ** 2 + (1 - 0.6) ** 2
    assert doubly_stochastic(attention, [1, 1, 1]).item() == pytest.approx(expected)


def test_doubly_stochastic_ignores_padding():
    attention = torch.tensor([[0.8, 0.2, 0.0], [0.6, 0.4, 0.0], [1.0, 0.0, 0.0]])
    padding = torch.tensor([[False, False, True]])
    alone = doubly_stochastic(attention[:, :2], [1, 1, 1])
    assert doubly_stochastic(attention, [1, 1, 1], padding).item() == pytest.approx(alone.item())


def test_reconstruction_error_is_relative_to_vectors():
    """Captions of three words and one word; each word is compared with its own image."""
    vectors = torch.tensor([[1.0, 3.0], [2.0, 0.0]])
    reconstruction = torch.tensor([[1.0, 3.0], [2.0, 2.0], [0.0, 3.0], [1.0, 3.0]])
    # Packed order: both first words, then the second and third word of the longer caption.
    errors = [0, 0, 0, 4, 1, 0, 0, 0]
    norms = [1, 9, 4, 0, 1, 9, 1, 9]
    expected = sum(errors) / sum(norms)
    assert reconstruction_error(reconstruction, vectors, [2, 1, 1]).item() == pytest.approx(
        expected
    )
