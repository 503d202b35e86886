"""Sampling against known distributions, and its streams of random numbers."""

import math
from collections import Counter

import pytest
import torch
from tree_decoder import BOS, EOS, TreeDecoder

from captioning.decoding import Sampling
from captioning.decoding.constraints import TokenConstraints
from captioning.decoding.sampling import _draw
from captioning.decoding.search import search


def draw_first_words(step, method, *, images=1, seed=0, required=()) -> list[list[int]]:
    """Return the first words of each image's samples, counted from 0."""
    state = TreeDecoder(seed=0).start(range(images))
    generator = torch.Generator().manual_seed(seed)
    constraints = TokenConstraints(BOS, EOS, required=required)
    found = search(step, state, method, constraints, generator=generator)
    return [[h.tokens[0] - 3 for h in hypotheses] for hypotheses in found]


def one_word_step(probs):
    """Return a step that generates one word from a fixed distribution, then ends."""
    first = torch.tensor([0.0, 0.0, 0.0, *probs]).log()
    then = torch.full_like(first, -math.inf)
    then[EOS] = 0.0
    table = torch.stack([first if t == BOS else then for t in range(len(first))])
    return lambda tokens, state: (table[tokens], state)


def count_words(probs, *, images=1, **settings) -> Counter:
    words = draw_first_words(one_word_step(probs), Sampling(**settings), images=images)
    return Counter(word for image in words for word in image)


def chi_square(counts: Counter, probs: dict) -> float:
    total = counts.total()
    return sum((counts[w] - total * p) ** 2 / (total * p) for w, p in probs.items())


PROBS = (0.4, 0.25, 0.2, 0.1, 0.05)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, PROBS),
        ({"temperature": 0.5}, [p**2 for p in PROBS]),
        ({"temperature": 2.0}, [p**0.5 for p in PROBS]),
        ({"top_k": 2}, [0.4, 0.25]),
        ({"top_p": 0.7}, [0.4, 0.25, 0.2]),
        ({"top_p": 0.6}, [0.4, 0.25]),
        ({"top_k": 3, "top_p": 0.7}, [0.4, 0.25]),
        ({"top_p": 0.01}, [1]),
        ({"top_p": 1e-46}, [1]),
        ({"temperature": 0.5, "top_p": 0.85}, [0.16, 0.0625, 0.04]),
    ],
)
def test_sampling_word_counts_match_distribution(settings, expected):
    probs = {word: p / sum(expected) for word, p in enumerate(expected)}
    counts = count_words(PROBS, images=20, n=500, **settings)
    assert set(counts) == set(probs)
    assert chi_square(counts, probs) < 18.5  # exceeded once in 1000 with four degrees of freedom


def test_sampling_flat_distribution_keeps_its_nucleus():
    counts = count_words([1 / 1000] * 1000, images=10, n=1000, top_p=0.5)
    assert 499 <= len(counts) <= 501


@pytest.mark.parametrize(("uniform", "word"), [(0.0, 1), (1 - 2**-23, 3)])
@pytest.mark.parametrize("total", [1.0, 3.0])  # rounded probabilities do not sum to one
def test_draw_at_limits_skips_impossible_words(uniform, word, total):
    probs = torch.tensor([[0.0, 0.1, 0.2, 0.7, 0.0]]) * total
    assert _draw(probs.log(), Sampling(), torch.tensor([uniform])).tolist() == [word]


def test_sampling_missing_words_get_probability_of_eos():
    """p'(w) = p(w) + p(eos) p(w) / (sum of p over the missing words), computed by hand."""
    probs = torch.tensor([0.0, 0.0, 0.4, 0.3, 0.2, 0.1]).log()
    words = draw_first_words(
        lambda tokens, state: (probs.expand(len(tokens), 6), state),
        Sampling(n=500, min_length=0, max_length=8),
        images=20,
        required=(4, 5),
    )
    counts = Counter(word for image in words for word in image)
    expected = {0: 0.3, 1: 0.2 + 0.4 * 0.2 / 0.3, 2: 0.1 + 0.4 * 0.1 / 0.3}
    assert chi_square(counts, expected) < 13.8  # once in 1000, two degrees of freedom


def test_sampling_samples_of_an_image_are_independent():
    pairs = draw_first_words(one_word_step(PROBS), Sampling(n=2), images=4000, seed=3)
    expected = {}
    for a, p in enumerate(PROBS):
        for b, q in enumerate(PROBS[a:], start=a):
            expected[a, b] = p * q * (1 if a == b else 2)  # the more probable one is listed first
    counts = Counter(map(tuple, pairs))
    assert set(counts) <= set(expected)
    assert chi_square(counts, expected) < 36.1  # once in 1000, 14 degrees of freedom


def test_sampling_caption_counts_match_enumeration():
    tree = TreeDecoder(seed=1, size=5)
    generator = torch.Generator().manual_seed(0)
    method = Sampling(n=4000, max_length=2, min_length=0)
    (found,) = tree.search(method, (7,), generator=generator)
    counts = Counter((h.tokens, h.finished) for h in found)
    expected = {}

    def share(words, token):
        allowed = (tree.distribution(7, words).exp() * torch.tensor([0, 0, 1, 1, 1])).tolist()
        return allowed[token] / sum(allowed)

    expected[(), True] = share((), EOS)
    for a in (3, 4):
        expected[(a,), True] = share((), a) * share((a,), EOS)
        for b in (3, 4):
            both = share((), a) * share((a,), b)
            expected[(a, b), True] = both * share((a, b), EOS)
            expected[(a, b), False] = both * (1 - share((a, b), EOS))
    assert set(counts) <= set(expected)
    assert chi_square(counts, expected) < 29.6  # once in 1000, 10 degrees of freedom


def sample_tree(images, *, seed=0, keys=None, **settings):
    return TreeDecoder(seed=2).search(
        Sampling(n=3, max_length=8, **settings),
        images,
        generator=torch.Generator().manual_seed(seed),
        keys=None if keys is None else torch.tensor(keys),
    )


def test_sampling_seed_determines_captions():
    assert sample_tree(range(8)) == sample_tree(range(8))
    assert sample_tree(range(8)) != sample_tree(range(8), seed=1)


def test_sampling_second_call_of_generator_differs():
    tree, generator = TreeDecoder(seed=2), torch.Generator().manual_seed(0)
    first, second = (tree.search(Sampling(), (0, 1), generator=generator) for _ in range(2))
    assert first != second


@pytest.mark.parametrize("settings", [{}, {"top_k": 2}, {"top_p": 0.8}])
def test_sampling_keyed_image_is_independent_of_batch(settings):
    together = sample_tree(range(8), keys=[100 + i for i in range(8)], **settings)
    for image in range(8):
        assert sample_tree((image,), keys=[100 + image], **settings) == [together[image]]
    reordered = sample_tree((5, 2, 7), keys=[105, 102, 107], **settings)
    assert reordered == [together[5], together[2], together[7]]


def test_sampling_images_with_different_keys_differ():
    assert len({tuple(found) for found in sample_tree((0,) * 8)}) == 8


def test_sampling_log_prob_ignores_temperature():
    tree = TreeDecoder(seed=2)
    for image, found in enumerate(sample_tree(range(8), temperature=0.5, top_k=2)):
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
        for hypothesis in found:
            expected = tree.token_log_probs(image, hypothesis)
            assert hypothesis.token_log_probs == pytest.approx(expected, abs=1e-6)
            assert hypothesis.log_prob == pytest.approx(sum(expected), abs=1e-5)
