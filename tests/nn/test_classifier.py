"""The sequence classifier against NumPy, finite differences, and what a bag of words cannot do."""

import math

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from captioning.errors import SettingsError
from captioning.nn.classifier import SequenceClassifier

V, K, E, H = 9, 3, 4, 5
SEQUENCES = [[3, 1], [4, 4, 5, 0, 7], [2], [8, 6, 1]]
each_cell = pytest.mark.parametrize("cell", ["rnn", "relu_rnn", "gru", "lstm"])


def build(cell, **settings):
    sizes = {"embedding_size": E, "hidden_size": H, "dropout": 0.0}
    model = SequenceClassifier(V, K, cell=cell, **{**sizes, **settings}).double()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.6)
    return model


def packed(sequences):
    return pack_sequence([torch.tensor(each) for each in sequences], enforce_sorted=False)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def step(cell, w, x, h, c):
    a, r = w["cell.W_xh"] @ x + w["cell.b"], w["cell.W_hh"] @ h
    if cell == "rnn":
        return np.tanh(a + r), c
    if cell == "relu_rnn":
        return np.maximum(a + r, 0), c
    if cell == "lstm":
        f, i, o, g = np.split(a + r, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c
    reset, update = sigmoid(a[:H] + r[:H]), sigmoid(a[H : 2 * H] + r[H : 2 * H])
    new = np.tanh(a[2 * H :] + reset * (r[2 * H :] + w["cell.b_hn"]))
    return (1 - update) * new + update * h, c


@each_cell
def test_logits_are_those_of_the_last_state_of_each_sequence(cell):
    model = build(cell)
    w = {name: weight.detach().numpy() for name, weight in model.named_parameters()}
    found = model(packed(SEQUENCES)).detach().numpy()
    for sequence, row in zip(SEQUENCES, found, strict=True):
        h = c = np.zeros(H)
        for word in sequence:
            h, c = step(cell, w, w["embedding.weight"][word], h, c)
        np.testing.assert_allclose(row, w["W_hy.weight"] @ h + w["W_hy.bias"], atol=1e-12)


@each_cell
def test_a_sequence_gives_the_same_alone_and_among_others(cell):
    model = build(cell)
    together = model(packed(SEQUENCES))
    backwards = model(packed(SEQUENCES[::-1])).flip(0)
    torch.testing.assert_close(together, backwards)
    for sequence, row in zip(SEQUENCES, together, strict=True):
        torch.testing.assert_close(model(packed([sequence]))[0], row)


@each_cell
def test_gradients_are_those_of_finite_differences(cell):
    model = build(cell)
    names = [name for name, _ in model.named_parameters()]
    weights = [weight.detach().requires_grad_() for weight in model.parameters()]

    def loss(*weights):
        given = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(model, given, (packed(SEQUENCES),)).sin().sum()

    assert torch.autograd.gradcheck(loss, weights, fast_mode=True)


@each_cell
def test_the_first_loss_is_that_of_all_classes_alike(cell):
    model = SequenceClassifier(V, K, cell=cell).eval()
    loss = torch.nn.functional.cross_entropy(
        model(packed(SEQUENCES)), torch.tensor([0, 1, 2, 0])
    ).detach()
    assert abs(float(loss) - math.log(K)) < 0.1


@each_cell
def test_the_order_of_the_same_words_can_be_learned(cell):
    """ "good, not bad at all" against "bad, not good at all": one bag of words."""
    good, not_, bad, at, every = range(5)
    pair = [[good, not_, bad, at, every], [bad, not_, good, at, every]]
    assert sorted(pair[0]) == sorted(pair[1])
    torch.manual_seed(1)
    model = SequenceClassifier(V, 2, cell=cell, embedding_size=8, hidden_size=8, dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(model(packed(pair)), torch.tensor([1, 0]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert model(packed(pair)).argmax(1).tolist() == [1, 0]
    assert loss < 0.05


def test_dropout_acts_in_training_alone():
    model = build("lstm", dropout=0.5)
    assert not torch.equal(model(packed(SEQUENCES)), model(packed(SEQUENCES)))
    model.eval()
    assert torch.equal(model(packed(SEQUENCES)), model(packed(SEQUENCES)))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"vocabulary_size": 0, "classes": 2}, "vocabulary_size is 0"),
        ({"vocabulary_size": 5, "classes": 1}, "classes is 1"),
        ({"vocabulary_size": 5, "classes": 2, "cell": "ltsm"}, "Did you mean 'lstm'"),
        ({"vocabulary_size": 5, "classes": 2, "hidden_size": 0}, "hidden_size is 0"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, said):
    with pytest.raises(SettingsError, match=said):
        SequenceClassifier(**settings)
