"""Models that choose each word together, against sums over all captions."""

import itertools
import math

import torch

from captioning.decoding import BeamSearch, EnsembleState, ensemble, search

BOS, EOS, V = 0, 1, 5


class Table:
    """A model whose next word depends on the last word alone."""

    def __init__(self, seed):
        generator = torch.Generator().manual_seed(seed)
        self.log_probs = torch.randn(V, V, generator=generator).mul(2).log_softmax(1)

    def step(self, tokens, state):
        return self.log_probs[tokens], state


class Rows:
    """A state that is nothing but a number of rows."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def select(self, rows):
        return Rows(len(rows))


def test_the_best_caption_is_that_of_the_mean_probability():
    models = [Table(seed) for seed in (1, 2, 3)]
    mean = torch.stack([model.log_probs.exp() for model in models]).mean(0)

    def probability(caption):
        return math.prod(float(mean[a, b]) for a, b in itertools.pairwise((BOS, *caption, EOS)))

    words = [word for word in range(V) if word not in (BOS, EOS)]
    every = [c for n in range(1, 4) for c in itertools.product(words, repeat=n)]
    best = max(every, key=probability)
    step = ensemble([model.step for model in models])
    state = EnsembleState(tuple(Rows(1) for _ in models))
    how = BeamSearch(width=60, min_length=1, max_length=3)
    found = search(step, state, how, bos=BOS, eos=EOS)[0]
    finished = next(each for each in found if each.finished)
    assert finished.tokens == best
    assert math.isclose(math.exp(finished.log_prob), probability(best), rel_tol=1e-5)


def test_one_model_alone_is_itself():
    model = Table(4)
    tokens = torch.tensor([0, 3])
    log_probs, after = ensemble([model.step])(tokens, EnsembleState((Rows(2),)))
    assert torch.equal(log_probs, model.log_probs[tokens])
    assert len(after.select(torch.tensor([0]))) == 1
