"""Soft attention against its equations in NumPy."""

import numpy as np
import pytest
import torch

from captioning.nn.attention import SoftAttention

N, P, D, H, A = 3, 5, 4, 6, 7


def random_attention() -> SoftAttention:
    attend = SoftAttention(D, H, A).double()
    for weight in attend.parameters():
        torch.nn.init.normal_(weight)
    return attend


def test_attention_follows_published_equations():
    attend = random_attention()
    grid = torch.randn(N, P, A, dtype=torch.float64)
    h = torch.randn(N, H, dtype=torch.float64)
    with torch.no_grad():
        context, alpha = attend(grid, attend.project_keys(grid), h)
    W_ae, W_he, w_e = (m.weight.detach().numpy() for m in (attend.W_ae, attend.W_he, attend.w_e))
    b = attend.W_he.bias.detach().numpy()
    for n in range(N):
        e = np.empty(P)
        for p in range(P):
            e[p] = w_e[0] @ np.tanh(W_ae @ grid[n, p].numpy() + W_he @ h[n].numpy() + b)
        weights = np.exp(e) / np.exp(e).sum()
        expected = sum(weights[p] * grid[n, p].numpy() for p in range(P))
        # The softmax is always computed in float32.
        np.testing.assert_allclose(alpha[n].numpy(), weights, rtol=1e-5)
        np.testing.assert_allclose(context[n].numpy(), expected, rtol=1e-4, atol=1e-6)


def test_attention_equal_positions_get_equal_weights():
    attend = random_attention()
    grid = torch.randn(N, 1, A, dtype=torch.float64).expand(N, P, A)
    h = torch.randn(N, H, dtype=torch.float64)
    context, alpha = attend(grid, attend.project_keys(grid), h)
    torch.testing.assert_close(alpha, torch.full_like(alpha, 1 / P))
    torch.testing.assert_close(context, grid[:, 0], rtol=1e-5, atol=1e-6)


def test_attention_ignores_order_of_positions():
    attend = random_attention()
    grid = torch.randn(N, P, A, dtype=torch.float64)
    h = torch.randn(N, H, dtype=torch.float64)
    order = torch.randperm(P)
    context, alpha = attend(grid, attend.project_keys(grid), h)
    permuted, permuted_alpha = attend(grid[:, order], attend.project_keys(grid[:, order]), h)
    torch.testing.assert_close(permuted, context, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(permuted_alpha, alpha[:, order])


@pytest.mark.parametrize("scale", [1.0, 40.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attention_search_equals_forward_for_grouped_rows(dtype, scale):
    attend = random_attention().to(dtype)
    images, rows = 5, 4
    grid = torch.randn(images, P, A, dtype=dtype)
    h = scale * torch.randn(images * rows, H, dtype=dtype)
    with torch.no_grad():
        keys = attend.project_keys(grid)
        each = torch.arange(images).repeat_interleave(rows)
        expected = attend(grid[each], keys[each], h)
        for actual in (attend(grid, keys, h), attend.search(grid, attend.exponentiate(keys), h)):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_attention_search_blocks_do_not_change_result(monkeypatch):
    attend = random_attention()
    grid = torch.randn(7, P, A, dtype=torch.float64)
    h = torch.randn(14, H, dtype=torch.float64)
    with torch.no_grad():
        exp_keys = attend.exponentiate(attend.project_keys(grid))
        whole = attend.search(grid, exp_keys, h)
        monkeypatch.setattr("captioning.nn.attention._BLOCK", 3 * 2 * P * A)  # 3, 3 and 1 images
        torch.testing.assert_close(attend.search(grid, exp_keys, h), whole, rtol=1e-12, atol=1e-12)


def test_attention_padding_gets_weight_zero():
    """The equations in NumPy over the real positions only."""
    attend = random_attention()
    counts, rows = [2, 5, 1], 2
    a = torch.randn(N, P, A, dtype=torch.float64)
    h = torch.randn(N * rows, H, dtype=torch.float64)
    padding = torch.arange(P) >= torch.tensor(counts).unsqueeze(1)
    with torch.no_grad():
        keys = attend.project_keys(a)
        plain = attend(a, keys, h, padding)
        fast = attend.search(a, attend.exponentiate(keys), h, padding)
    W_ae, W_he, w_e = (m.weight.detach().numpy() for m in (attend.W_ae, attend.W_he, attend.w_e))
    b = attend.W_he.bias.detach().numpy()
    for z, alpha in (plain, fast):
        for row in range(N * rows):
            real = a[row // rows, : counts[row // rows]].numpy()
            energies = np.tanh(real @ W_ae.T + W_he @ h[row].numpy() + b) @ w_e[0]
            weights = np.exp(energies) / np.exp(energies).sum()
            np.testing.assert_allclose(alpha[row, : len(real)].numpy(), weights, rtol=1e-5)
            np.testing.assert_allclose(z[row].numpy(), weights @ real, rtol=1e-4, atol=1e-6)
            assert not alpha[row, len(real) :].any()


@pytest.mark.parametrize("rows", [1, 3])
def test_attention_search_weights_do_not_depend_on_the_batch(rows):
    """bfloat16 enlarges a difference in the last bit of an energy to one in the third digit."""
    positions, size = 81, 128
    attend = SoftAttention(D, H, size)
    torch.nn.init.zeros_(attend.W_he.weight)  # its product may depend on the number of rows
    a = attend.project_grid(torch.randn(6, positions, D))
    with torch.no_grad():
        exp_keys = attend.exponentiate(torch.randn(6, positions, size))
        weights = attend.search(a, exp_keys, torch.zeros(6 * rows, H))[1].view(6, rows, -1)
        for image in range(6):
            one = slice(image, image + 1)
            alone = attend.search(a[one], exp_keys[one], torch.zeros(rows, H))[1]
            assert torch.equal(alone, weights[image])
