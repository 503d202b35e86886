"""The sequence classifier against NumPy, finite differences, and what a bag of words cannot do."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_sequence

from captioning.errors import ConfigError, DataError
from captioning.lecture.classifier import SequenceClassifier, pack

V, K, E, H = 9, 3, 4, 5
SEQUENCES = [[3, 1], [4, 4, 5, 0, 7], [2], [8, 6, 1]]
PAIR = [
    sentence.split()
    for sentence in ("the food was good , not bad at all", "the food was bad , not good at all")
]
WORDS = sorted(set(PAIR[0]))
ORDERS = [[WORDS.index(word) for word in sentence] for sentence in PAIR]
each_cell = pytest.mark.parametrize("cell", ["rnn", "relu_rnn", "gru", "lstm"])


def build(cell, classes=K, **settings):
    """A classifier with all weights random, biases included, in float64."""
    sizes = {"embedding_size": E, "hidden_size": H, "dropout": 0.0}
    model = SequenceClassifier(V, classes, cell=cell, **{**sizes, **settings}).double()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.6)
    return model


def learn(model, sequences, classes, updates, rate=0.02):
    """Teach a model a batch, and return the last loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(updates):
        loss = cross_entropy(model(pack(sequences)), torch.tensor(classes))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


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
@pytest.mark.parametrize("classes", [1, K])
def test_last_states_and_logits_are_those_of_a_loop_over_words(cell, classes):
    model = build(cell, classes)
    w = {name: weight.detach().numpy() for name, weight in model.named_parameters()}
    with torch.no_grad():
        hidden, logits = model.last_hidden(pack(SEQUENCES)), model(pack(SEQUENCES))
    assert logits.shape == (len(SEQUENCES), classes)
    for sequence, h_T, y in zip(SEQUENCES, hidden.numpy(), logits.numpy(), strict=True):
        h = c = np.zeros(H)
        for word in sequence:
            h, c = step(cell, w, w["embedding.weight"][word], h, c)
        np.testing.assert_allclose(h_T, h, rtol=0, atol=1e-12)
        np.testing.assert_allclose(y, w["W_hy.weight"] @ h + w["W_hy.bias"], rtol=0, atol=1e-12)


@each_cell
def test_a_sequence_gives_the_same_alone_and_in_every_order_of_a_batch(cell):
    model = build(cell)
    alone = [model(pack([sequence]))[0] for sequence in SEQUENCES]
    for order in itertools.permutations(range(len(SEQUENCES))):
        together = model(pack([SEQUENCES[place] for place in order]))
        torch.testing.assert_close(together, torch.stack([alone[place] for place in order]))


def test_sequences_packed_as_sorted_are_read_as_well():
    model = build("lstm")
    longest_first = sorted(SEQUENCES, key=len, reverse=True)
    tokens = pack_sequence([torch.tensor(sequence) for sequence in longest_first])
    assert tokens.unsorted_indices is None
    torch.testing.assert_close(model(tokens), model(pack(longest_first)))


@each_cell
def test_gradients_are_those_of_finite_differences(cell):
    model = build(cell)
    names = [name for name, _ in model.named_parameters()]
    weights = [weight.detach().requires_grad_() for weight in model.parameters()]

    def loss(*weights):
        given = dict(zip(names, weights, strict=True))
        logits = torch.func.functional_call(model, given, (pack(SEQUENCES),))
        return cross_entropy(logits, torch.tensor([0, 1, 2, 0]))

    assert torch.autograd.gradcheck(loss, weights)


@each_cell
def test_the_first_loss_is_that_of_all_classes_alike(cell):
    model = SequenceClassifier(V, K, cell=cell).eval()
    loss = cross_entropy(model(pack(SEQUENCES)), torch.tensor([0, 1, 2, 0]))
    assert float(loss.detach()) == pytest.approx(math.log(K), abs=0.02)


@each_cell
def test_a_batch_of_sentences_with_classes_at_random_is_learned_by_heart(cell):
    random = torch.Generator().manual_seed(2)
    lengths = torch.randint(1, 8, (20,), generator=random).tolist()
    sequences = [torch.randint(V, (length,), generator=random).tolist() for length in lengths]
    classes = {str(each): place * 7 % K for place, each in enumerate(sequences)}
    wanted = [classes[str(each)] for each in sequences]  # where one stands twice, it has one class
    assert set(wanted) == set(range(K))
    model = SequenceClassifier(V, K, cell=cell, embedding_size=16, hidden_size=32, dropout=0.0)
    assert learn(model, sequences, wanted, updates=200, rate=0.01) < 0.05
    assert model(pack(sequences)).argmax(1).tolist() == wanted


@each_cell
def test_the_order_of_the_same_words_can_be_learned(cell):
    sizes = {"embedding_size": 8, "hidden_size": 16, "dropout": 0.0}
    model = SequenceClassifier(len(WORDS), 2, cell=cell, **sizes)
    assert learn(model, ORDERS, [1, 0], updates=150) < 0.05
    assert model(pack(ORDERS)).argmax(1).tolist() == [1, 0]


def test_no_bag_of_words_can_tell_the_same_words_apart():
    assert PAIR[0] != PAIR[1]
    assert sorted(PAIR[0]) == sorted(PAIR[1])
    bags = torch.stack([torch.tensor(each).bincount(minlength=len(WORDS)) for each in ORDERS])
    model = torch.nn.Linear(len(WORDS), 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        loss = cross_entropy(model(bags.float()), torch.tensor([1, 0]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    first, second = model(bags.float())
    assert torch.equal(first, second)
    assert float(loss.detach()) >= math.log(2) - 1e-6  # the best that one answer for both can do


def test_dropout_acts_in_training_alone():
    model = build("lstm", dropout=0.5)
    assert not torch.equal(model(pack(SEQUENCES)), model(pack(SEQUENCES)))
    model.eval()
    assert torch.equal(model(pack(SEQUENCES)), model(pack(SEQUENCES)))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"vocabulary_size": 0}, "vocabulary_size is 0. Use 1 or more"),
        ({"classes": 0}, "classes is 0. Use 1 or more"),
        ({"embedding_size": 0}, "embedding_size is 0. Use 1 or more"),
        ({"hidden_size": 0}, "hidden_size is 0. Use 1 or more"),
        ({"dropout": 1.0}, "dropout is 1.0. Use a number from 0 to below 1"),
        ({"dropout": -0.1}, "dropout is -0.1. Use a number from 0 to below 1"),
        ({"cell": "ltsm"}, "unknown cell 'ltsm'.*Did you mean 'lstm'"),
    ],
)
def test_classifier_invalid_argument_raises(settings, said):
    with pytest.raises(ConfigError, match=said):
        SequenceClassifier(**{"vocabulary_size": V, "classes": K, **settings})


def test_pack_empty_sequence_raises():
    with pytest.raises(DataError, match="no sequences to pack"):
        pack([])
    with pytest.raises(DataError, match=r"sequence 1 of 3 is empty.*with <eos>"):
        pack([[1], [], [2, 3]])
