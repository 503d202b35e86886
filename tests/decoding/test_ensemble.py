"""Ensembles against sums over all captions."""

import itertools
import math

import torch

from captioning.decoding import BeamSearch
from captioning.decoding.constraints import TokenConstraints
from captioning.decoding.ensemble import EnsembleState, ensemble
from captioning.decoding.search import search

BOS, EOS, V = 0, 1, 5


class Bigram:
    """A model whose next word depends only on the last word."""

    def __init__(self, seed):
        generator = torch.Generator().manual_seed(seed)
        self.log_probs = torch.randn(V, V, generator=generator).mul(2).log_softmax(1)

    def step(self, tokens, state):
        return self.log_probs[tokens], state


class RowCount:
    """A state that holds only the number of its rows."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def select(self, rows, images=None):
        return RowCount(len(rows))


def test_ensemble_best_caption_has_highest_mean_probability():
    models = [Bigram(seed) for seed in (1, 2, 3)]
    mean = torch.stack([model.log_probs.exp() for model in models]).mean(0)

    def probability(caption):
        return math.prod(float(mean[a, b]) for a, b in itertools.pairwise((BOS, *caption, EOS)))

    words = [word for word in range(V) if word not in (BOS, EOS)]
    captions = [c for n in range(1, 4) for c in itertools.product(words, repeat=n)]
    step = ensemble([model.step for model in models])
    state = EnsembleState(tuple(RowCount(1) for _ in models))
    method = BeamSearch(width=60, max_length=3)
    (hypotheses,) = search(step, state, method, TokenConstraints(BOS, EOS))
    best = next(hypothesis for hypothesis in hypotheses if hypothesis.finished)
    assert best.tokens == max(captions, key=probability)
    assert math.isclose(math.exp(best.log_prob), probability(best.tokens), rel_tol=1e-5)


def test_ensemble_of_one_model_equals_the_model():
    model = Bigram(4)
    tokens = torch.tensor([0, 3])
    log_probs, after = ensemble([model.step])(tokens, EnsembleState((RowCount(2),)))
    assert torch.equal(log_probs, model.log_probs[tokens])
    assert len(after.select(torch.tensor([0]))) == 1
