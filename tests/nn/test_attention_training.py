"""Attention of teacher forcing against the plain formula, and its gradients."""

from functools import partial

import pytest
import torch

from captioning.nn import attention_training
from captioning.nn.attention import SoftAttention
from captioning.nn.attention_training import GridRows

B, P, D, H, A = 4, 5, 4, 6, 7
IMAGE = torch.tensor([2, 0, 3, 2, 0, 3, 3])  # image 1 has no caption
SIZES = (7, 5, 4, 1)  # captions at each step
NO_PADDING = torch.zeros(B, P, dtype=torch.bool)
PADDING = torch.arange(P) >= torch.tensor([3, 5, 1, 4]).unsqueeze(1)


def random_inputs(scale=1.0):
    attention = SoftAttention(D, H, A).double()
    for weight in attention.parameters():
        torch.nn.init.normal_(weight)
    a = torch.randn(B, P, A, dtype=torch.float64, requires_grad=True)
    hidden = [scale * torch.randn(n, H, dtype=torch.float64) for n in SIZES]
    return attention, a, [h.requires_grad_() for h in hidden]


def attend_plainly(attention, a, keys, hidden, padding=NO_PADDING):
    """z and alpha of all steps by the published equations, with a copy of the grid per row."""
    results = []
    for h in hidden:
        image = IMAGE[: len(h)]
        hidden_layer = torch.tanh(keys[image] + attention.W_he(h).unsqueeze(1))
        energies = attention.w_e(hidden_layer).squeeze(2)
        weights = (energies - energies.amax(1, keepdim=True)).exp() * ~padding[image]
        alpha = weights / weights.sum(1, keepdim=True)
        results += [(alpha.unsqueeze(2) * a[image]).sum(1), alpha]
    return results


def attend_by_rows(attention, a, keys, hidden):
    rows = GridRows(attention, a, keys, IMAGE)
    return [part for h in hidden for part in rows.attend(h)]


def compute_gradients(attend, attention, a, hidden, used=slice(None)):
    """Gradients of a random function of z and alpha of all steps."""
    parts = attend(attention, a, attention.project_keys(a), hidden)[used]
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(part.shape, generator=generator).double() for part in parts]
    loss = sum((part * weight).sum() for part, weight in zip(parts, weights, strict=True))
    inputs = [a, *hidden, attention.W_ae.weight, attention.w_e.weight, *attention.W_he.parameters()]
    return torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)


@pytest.fixture(params=[1, 1 << 21], ids=["single rows", "one block"])
def _block_bytes(request, monkeypatch):
    monkeypatch.setattr(attention_training, "_BLOCK_BYTES", request.param)


@pytest.mark.usefixtures("_block_bytes")
def test_grid_rows_equal_plain_attention():
    attention, a, hidden = random_inputs()
    keys = attention.project_keys(a)
    found = attend_by_rows(attention, a, keys, hidden)
    torch.testing.assert_close(found, attend_plainly(attention, a, keys, hidden))


@pytest.mark.usefixtures("_block_bytes")
@pytest.mark.parametrize(
    "used", [slice(None), slice(0, None, 2), slice(1, None, 2), slice(0, 1), slice(2, 4)]
)
def test_grid_rows_gradients_equal_plain_gradients(used):
    """All outputs, only z, only alpha, only the first z, and only the second step."""
    inputs = random_inputs()
    found = compute_gradients(attend_by_rows, *inputs, used)
    torch.testing.assert_close(found, compute_gradients(attend_plainly, *inputs, used))


@pytest.mark.usefixtures("_block_bytes")
def test_grid_rows_padding_equals_plain_masked_attention():
    attention, a, hidden = random_inputs()

    def by_rows(attention, a, keys, hidden):
        rows = GridRows(attention, a, keys, IMAGE, PADDING)
        return [part for h in hidden for part in rows.attend(h)]

    plainly = partial(attend_plainly, padding=PADDING)
    keys = attention.project_keys(a)
    found = by_rows(attention, a, keys, hidden)
    torch.testing.assert_close(found, plainly(attention, a, keys, hidden))
    for alpha in found[1::2]:
        assert not alpha[PADDING[IMAGE[: len(alpha)]]].any()
    expected = compute_gradients(plainly, attention, a, hidden)
    torch.testing.assert_close(compute_gradients(by_rows, attention, a, hidden), expected)


def test_grid_rows_second_backward_equals_first():
    """The gradient buffers that steps share must not survive a backward pass."""
    attention, a, hidden = random_inputs()
    parts = attend_by_rows(attention, a, attention.project_keys(a), hidden)
    loss = sum(part.square().sum() for part in parts)
    torch.autograd.grad(loss, hidden[0], retain_graph=True)
    first, second = (torch.autograd.grad(loss, [a, *hidden], retain_graph=True) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


def test_grid_rows_large_values_stay_finite():
    attention, a, hidden = random_inputs(scale=1e3)
    attention, a, hidden = attention.float(), 1e3 * a.float(), [h.float() for h in hidden]
    found = attend_by_rows(attention, a, attention.project_keys(a), hidden)
    assert all(part.isfinite().all() for part in found)
