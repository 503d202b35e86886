"""Sequence classifier against NumPy, finite differences, and a bag of words."""

import itertools
import math

import numpy as np
import pytest
import torch
from numpy_cells import step_cell
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_sequence

from captioning.errors import ConfigError, DataError
from captioning.lecture.classifier import SequenceClassifier, pack
from captioning.nn.cells import CELLS

V, K, E, H = 9, 3, 4, 5
SEQUENCES = [[3, 1], [4, 4, 5, 0, 7], [2], [8, 6, 1]]
PAIR = [
    sentence.split()
    for sentence in ("the food was good , not bad at all", "the food was bad , not good at all")
]
WORDS = sorted(set(PAIR[0]))
PAIR_TOKENS = [[WORDS.index(word) for word in sentence] for sentence in PAIR]
each_cell = pytest.mark.parametrize("cell", CELLS)


def build_classifier(cell, classes=K, **changes):
    """A classifier with all weights random, biases included, in float64."""
    arguments = {"embedding_size": E, "hidden_size": H, "dropout": 0.0, **changes}
    model = SequenceClassifier(V, classes, cell=cell, **arguments).double()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.6)
    return model


def train(model, inputs, classes, *, updates, learning_rate=0.02):
    """Train on one batch and return the last loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    for _ in range(updates):
        loss = cross_entropy(model(inputs), torch.tensor(classes))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


@each_cell
@pytest.mark.parametrize("classes", [1, K])
def test_classifier_logits_equal_loop_over_words(cell, classes):
    model = build_classifier(cell, classes)
    w = {name: weight.detach().numpy() for name, weight in model.named_parameters()}
    cell_weights = {name.removeprefix("cell."): weight for name, weight in w.items()}
    with torch.no_grad():
        hidden, logits = model.last_hidden(pack(SEQUENCES)), model(pack(SEQUENCES))
    assert logits.shape == (len(SEQUENCES), classes)
    for sequence, h_T, y in zip(SEQUENCES, hidden.numpy(), logits.numpy(), strict=True):
        state = (np.zeros(H), np.zeros(H))
        for word in sequence:
            state = step_cell(cell, cell_weights, w["embedding.weight"][word], state)
        h = state[0]
        np.testing.assert_allclose(h_T, h, rtol=0, atol=1e-12)
        np.testing.assert_allclose(y, w["W_hy.weight"] @ h + w["W_hy.bias"], rtol=0, atol=1e-12)


@each_cell
def test_classifier_logits_are_independent_of_batch(cell):
    model = build_classifier(cell)
    alone = torch.stack([model(pack([sequence]))[0] for sequence in SEQUENCES])
    for order in itertools.permutations(range(len(SEQUENCES))):
        together = model(pack([SEQUENCES[i] for i in order]))
        torch.testing.assert_close(together, alone[list(order)])


def test_classifier_accepts_sorted_packed_sequence():
    model = build_classifier("lstm")
    longest_first = sorted(SEQUENCES, key=len, reverse=True)
    tokens = pack_sequence([torch.tensor(sequence) for sequence in longest_first])
    assert tokens.unsorted_indices is None
    torch.testing.assert_close(model(tokens), model(pack(longest_first)))


@each_cell
def test_classifier_gradients_match_finite_differences(cell):
    model = build_classifier(cell)
    names = [name for name, _ in model.named_parameters()]
    weights = [weight.detach().requires_grad_() for weight in model.parameters()]

    def loss(*weights):
        values = dict(zip(names, weights, strict=True))
        logits = torch.func.functional_call(model, values, (pack(SEQUENCES),))
        return cross_entropy(logits, torch.tensor([0, 1, 2, 0]))

    assert torch.autograd.gradcheck(loss, weights)


@each_cell
def test_classifier_initial_loss_is_log_class_count(cell):
    model = SequenceClassifier(V, K, cell=cell).eval()
    loss = cross_entropy(model(pack(SEQUENCES)), torch.tensor([0, 1, 2, 0]))
    assert float(loss.detach()) == pytest.approx(math.log(K), abs=0.02)


@each_cell
def test_classifier_overfits_random_classes(cell):
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(1, 8, (20,), generator=generator).tolist()
    sequences = [torch.randint(V, (length,), generator=generator).tolist() for length in lengths]
    # Equal sequences get the same class.
    class_of = {str(sequence): i * 7 % K for i, sequence in enumerate(sequences)}
    classes = [class_of[str(sequence)] for sequence in sequences]
    assert set(classes) == set(range(K))
    model = SequenceClassifier(V, K, cell=cell, embedding_size=16, hidden_size=32, dropout=0.0)
    assert train(model, pack(sequences), classes, updates=200, learning_rate=0.01) < 0.05
    assert model(pack(sequences)).argmax(1).tolist() == classes


@each_cell
def test_classifier_learns_order_of_same_words(cell):
    sizes = {"embedding_size": 8, "hidden_size": 16, "dropout": 0.0}
    model = SequenceClassifier(len(WORDS), 2, cell=cell, **sizes)
    assert train(model, pack(PAIR_TOKENS), [1, 0], updates=150) < 0.05
    assert model(pack(PAIR_TOKENS)).argmax(1).tolist() == [1, 0]


def test_bag_of_words_cannot_learn_order_of_same_words():
    assert PAIR[0] != PAIR[1]
    assert sorted(PAIR[0]) == sorted(PAIR[1])
    counts = [torch.tensor(tokens).bincount(minlength=len(WORDS)) for tokens in PAIR_TOKENS]
    bags = torch.stack(counts).float()
    model = torch.nn.Linear(len(WORDS), 2)
    loss = train(model, bags, [1, 0], updates=150)
    first, second = model(bags)
    assert torch.equal(first, second)
    assert loss >= math.log(2) - 1e-6  # the minimum if both sentences have the same logits


def test_classifier_dropout_applies_only_in_training():
    model = build_classifier("lstm", dropout=0.5)
    for training in (True, False):
        a, b = (model.train(training)(pack(SEQUENCES)) for _ in range(2))
        assert torch.equal(a, b) is not training


@pytest.mark.parametrize(
    ("arguments", "message"),
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
def test_classifier_invalid_argument_raises(arguments, message):
    with pytest.raises(ConfigError, match=message):
        SequenceClassifier(**{"vocabulary_size": V, "classes": K, **arguments})


def test_pack_empty_sequence_raises():
    with pytest.raises(DataError, match="no sequences to pack"):
        pack([])
    with pytest.raises(DataError, match=r"sequence 1 of 3 is empty.*with <eos>"):
        pack([[1], [], [2, 3]])
