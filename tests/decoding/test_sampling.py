"""Sampling against known distributions, and its streams of chance."""

import math
from collections import Counter

import pytest
import torch
from tree_decoder import BOS, EOS, TreeDecoder

from captioning.decoding import Sampling, search
from captioning.decoding.sampling import _draw


class OneWord:
    """A decoder that says one word of a fixed distribution, then ends."""

    def __init__(self, probs) -> None:
        first = torch.tensor([0.0, 0.0, 0.0, *probs]).log()
        then = torch.full_like(first, -math.inf)
        then[EOS] = 0.0
        self.table = torch.stack([first if t == BOS else then for t in range(len(first))])

    def step(self, tokens, state):
        return self.table[tokens], state


def draw_words(probs, *, images=1, seed=0, **settings) -> Counter:
    decoder = OneWord(probs)
    state = TreeDecoder(seed=0).start(range(images))
    generator = torch.Generator().manual_seed(seed)
    how = Sampling(**settings)
    found = search(decoder.step, state, how, bos=BOS, eos=EOS, generator=generator)
    return Counter(h.tokens[0] - 3 for hypotheses in found for h in hypotheses)


def chi_square(counts: Counter, probs) -> float:
    total = counts.total()
    return sum((counts[w] - total * p) ** 2 / (total * p) for w, p in enumerate(probs) if p)


PROBS = (0.4, 0.25, 0.2, 0.1, 0.05)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, PROBS),
        ({"temperature": 0.5}, [p**2 for p in PROBS]),
        ({"temperature": 2.0}, [p**0.5 for p in PROBS]),
        ({"top_k": 2}, [0.4, 0.25, 0, 0, 0]),
        ({"top_p": 0.7}, [0.4, 0.25, 0.2, 0, 0]),
        ({"top_p": 0.6}, [0.4, 0.25, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.7}, [0.4, 0.25, 0, 0, 0]),
        ({"top_p": 0.01}, [1, 0, 0, 0, 0]),
        ({"top_p": 1e-46}, [1, 0, 0, 0, 0]),
        ({"temperature": 0.5, "top_p": 0.85}, [0.16, 0.0625, 0.04, 0, 0]),
    ],
)
def test_words_come_as_often_as_they_should(settings, expected):
    probs = [p / sum(expected) for p in expected]
    counts = draw_words(PROBS, images=20, n=500, **settings)
    assert set(counts) == {w for w, p in enumerate(probs) if p}
    # 18.5 is exceeded once in a thousand by chi-square of four degrees of freedom.
    assert chi_square(counts, probs) < 18.5


def test_a_flat_distribution_of_many_words_keeps_its_nucleus():
    probs = [1 / 1000] * 1000
    counts = draw_words(probs, images=10, n=1000, top_p=0.5)
    assert 499 <= len(set(counts)) <= 501


def test_a_word_of_no_probability_is_never_drawn_at_the_ends_of_chance():
    probs = torch.tensor([[0.0, 0.1, 0.2, 0.7, 0.0]])
    for total in (1.0, 3.0):  # the probabilities need not sum to one exactly
        for uniform, word in ((0.0, 1), (1 - 2**-23, 3)):
            drawn = _draw((probs * total).log(), Sampling(), torch.tensor([uniform]))
            assert drawn.tolist() == [word]


def test_lacking_words_get_the_probability_of_ending_too_soon():
    """p'(w) = p(w) + p(eos) p(w) / (sum of p over the lacking words), worked out by hand."""
    first = torch.tensor([0.0, 0.0, 0.4, 0.3, 0.2, 0.1]).log()

    def step(tokens, state):
        return first.expand(len(tokens), 6), state

    how = Sampling(n=500, min_length=0, max_length=8, required_words=(4, 5))
    state = TreeDecoder(seed=0).start(range(20))
    generator = torch.Generator().manual_seed(0)
    found = search(step, state, how, bos=BOS, eos=EOS, generator=generator)
    counts = Counter(h.tokens[0] - 3 for hypotheses in found for h in hypotheses)
    expected = [0.3, 0.2 + 0.4 * 0.2 / 0.3, 0.1 + 0.4 * 0.1 / 0.3]
    assert chi_square(counts, expected) < 13.8  # one in a thousand, two degrees of freedom


def test_samples_of_one_image_are_independent():
    """Pairs of words from consecutive samples have the product of their probabilities."""
    decoder = OneWord(PROBS)
    state = TreeDecoder(seed=0).start(range(4000))
    generator = torch.Generator().manual_seed(3)
    pairs: Counter = Counter()
    for seen in search(decoder.step, state, Sampling(n=2), bos=BOS, eos=EOS, generator=generator):
        pairs[tuple(h.tokens[0] - 3 for h in seen)] += 1
    expected = {}
    for a, p in enumerate(PROBS):
        for b, q in enumerate(PROBS[a:], start=a):
            expected[a, b] = p * q * (1 if a == b else 2)  # the more probable one is listed first
    assert set(pairs) <= set(expected)
    distance = sum((pairs[k] - 4000 * p) ** 2 / (4000 * p) for k, p in expected.items())
    assert distance < 36.1  # one in a thousand, 14 degrees of freedom


def test_whole_captions_come_as_often_as_they_should():
    tree = TreeDecoder(seed=1, size=5)
    generator = torch.Generator().manual_seed(0)
    how = Sampling(n=4000, max_length=2, min_length=0)
    (found,) = search(
        tree.step, tree.start((7,)), how, bos=BOS, eos=EOS, banned=(0,), generator=generator
    )
    counts = Counter((h.tokens, h.finished) for h in found)
    expected = {}

    def allowed(words):
        return (tree.distribution(7, words).exp() * torch.tensor([0, 0, 1, 1, 1])).tolist()

    def share(words, token):
        return allowed(words)[token] / sum(allowed(words))

    expected[(), True] = share((), EOS)
    for a in (3, 4):
        expected[(a,), True] = share((), a) * share((a,), EOS)
        for b in (3, 4):
            both = share((), a) * share((a,), b)
            expected[(a, b), True] = both * share((a, b), EOS)
            expected[(a, b), False] = both * (1 - share((a, b), EOS))
    assert set(counts) <= set(expected)
    distance = sum((counts[k] - 4000 * p) ** 2 / (4000 * p) for k, p in expected.items())
    assert distance < 29.6  # one in a thousand, 10 degrees of freedom


def sampled(images, *, seed=0, keys=None, **settings):
    tree = TreeDecoder(seed=2)
    generator = torch.Generator().manual_seed(seed)
    how = Sampling(n=3, max_length=8, **settings)
    state = tree.start(images)
    keys = None if keys is None else torch.tensor(keys)
    return search(
        tree.step, state, how, bos=BOS, eos=EOS, banned=(0,), generator=generator, keys=keys
    )


def test_a_seed_gives_the_same_captions_again_and_another_gives_others():
    assert sampled(range(8)) == sampled(range(8))
    assert sampled(range(8)) != sampled(range(8), seed=1)


def test_a_generator_goes_on_from_call_to_call():
    tree, generator = TreeDecoder(seed=2), torch.Generator().manual_seed(0)
    first, second = (
        search(tree.step, tree.start((0, 1)), Sampling(), bos=BOS, eos=EOS, generator=generator)
        for _ in range(2)
    )
    assert first != second


@pytest.mark.parametrize("settings", [{}, {"top_k": 2}, {"top_p": 0.8}])
def test_an_image_with_a_key_gets_the_same_captions_in_any_batch(settings):
    together = sampled(range(8), keys=[100 + i for i in range(8)], **settings)
    for image in range(8):
        assert sampled((image,), keys=[100 + image], **settings) == [together[image]]
    turned = sampled((5, 2, 7), keys=[105, 102, 107], **settings)
    assert turned == [together[5], together[2], together[7]]


def test_images_with_different_keys_differ():
    assert len({tuple(found) for found in sampled((0,) * 8)}) == 8


def test_the_log_probability_is_the_models_whatever_the_temperature():
    tree = TreeDecoder(seed=2)
    for image, found in enumerate(sampled(range(8), temperature=0.5, top_k=2)):
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
        for hypothesis in found:
            tokens = (*hypothesis.tokens, EOS) if hypothesis.finished else hypothesis.tokens
            expected = [
                tree.distribution(image, tokens[:t])[token].item() for t, token in enumerate(tokens)
            ]
            assert hypothesis.token_log_probs == pytest.approx(expected, abs=1e-6)
            assert hypothesis.log_prob == pytest.approx(sum(expected), abs=1e-5)
