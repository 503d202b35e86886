"""Recurrent cells in NumPy, by their published equations: the oracle of the tests."""

import numpy as np


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def softmax(a):
    return np.exp(a - a.max()) / np.exp(a - a.max()).sum()


def step_cell(name, weights, x, state, image=0.0):
    """Return the next state of one sequence.

    Args:
        name: Name of the cell.
        weights: ``W_xh``, ``W_hh``, ``b`` and, for a GRU, ``b_hn``.
        x: Input, (E,).
        state: h and, for an LSTM, c: (H,) each.
        image: Image term of the gates, ``W_vh v``.
    """
    h = state[0]
    a, r = weights["W_xh"] @ x + weights["b"] + image, weights["W_hh"] @ h
    if name == "rnn":
        return (np.tanh(a + r),)
    if name == "relu_rnn":
        return (np.maximum(a + r, 0),)
    if name == "lstm":
        f, i, o, g = np.split(a + r, 4)
        c = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c
    (a_r, a_z, a_n), (r_r, r_z, r_n) = np.split(a, 3), np.split(r, 3)
    n = np.tanh(a_n + sigmoid(a_r + r_r) * (r_n + weights["b_hn"]))
    z = sigmoid(a_z + r_z)
    return ((1 - z) * n + z * h,)
