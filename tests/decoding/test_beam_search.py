"""Beam search against full enumeration, on a decoder in which every prefix differs."""

import itertools

import pytest
from tree_decoder import BOS, EOS, TreeDecoder

from captioning.decoding import (
    BeamSearch,
    DiverseBeamSearch,
    Greedy,
    Hypothesis,
    SearchMethod,
    search,
)

WORDS = (3, 4, 5)


def run(tree, how: SearchMethod, images=(0,), **options) -> list[list[Hypothesis]]:
    return search(tree.step, tree.start(images), how, bos=BOS, eos=EOS, banned=(0,), **options)


def every_caption(tree, image, *, longest, shortest=1, words=WORDS):
    """Every finished caption with its log-probability, the most probable first."""
    captions = {
        caption: tree.log_prob(image, caption)
        for length in range(shortest, longest + 1)
        for caption in itertools.product(words, repeat=length)
    }
    return dict(sorted(captions.items(), key=lambda item: -item[1]))


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.5])
def test_a_beam_wide_enough_finds_exactly_the_best_captions(penalty):
    tree = TreeDecoder(seed=1)
    images = (0, 1, 2)
    how = BeamSearch(width=200, n=60, max_length=4, length_penalty=penalty)
    for image, found in zip(images, run(tree, how, images), strict=True):
        captions = every_caption(tree, image, longest=4)
        scores = {c: p / (len(c) + 1) ** penalty for c, p in captions.items()}
        best = sorted(scores, key=lambda c: -scores[c])[:60]
        assert [h.tokens for h in found] == best
        for hypothesis in found:
            assert hypothesis.finished
            assert hypothesis.score == pytest.approx(scores[hypothesis.tokens], abs=1e-5)
            assert hypothesis.log_prob == pytest.approx(captions[hypothesis.tokens], abs=1e-5)


def list_beam_search(tree, image, how: BeamSearch):
    """The rule of ``BeamSearch``'s docstring, for one image, with lists.

    Hypotheses that hold equally many of the required words compete with each other alone.
    """
    required, limit, penalty = set(how.required_words), how.max_length, how.length_penalty
    live, finished = [((), 0.0)], []
    for length in range(limit + 1):
        words_next, ends_next = [], []
        for words, log_prob in live:
            after = tree.distribution(image, words)
            words_next += [((*words, w), log_prob + after[w].item()) for w in WORDS]
            if length and required <= set(words):
                ends_next.append(((*words, EOS), log_prob + after[EOS].item()))
        before, live = live, []
        for count in range(len(required) + 1):
            bank = [c for c in words_next if len(required & set(c[0])) == count]
            live += sorted(bank, key=lambda c: -c[1])[: how.width]
        whole = [c for c in words_next if required <= set(c[0])] + ends_next
        best = sorted(whole, key=lambda c: -c[1])[: how.width]
        finished += [(w[:-1], p, p / len(w) ** penalty) for w, p in best if w[-1] == EOS]
        finished = sorted(finished, key=lambda f: -f[2])[: how.n]
        reach = max(p for _, p in live) / (limit + 1) ** penalty
        if len(finished) == how.n and finished[-1][2] >= reach:
            return [(words, p, True) for words, p, _ in finished]
    cut = [(w, p, False) for w, p in sorted(before, key=lambda c: -c[1]) if required <= set(w)]
    return ([(words, p, True) for words, p, _ in finished] + cut)[: how.n]


@pytest.mark.parametrize(("width", "n"), [(1, 1), (2, 1), (3, 3), (5, 2)])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("required", [(), (4,), (5, 3)])
def test_a_narrow_beam_follows_the_documented_rule(width, n, penalty, required):
    tree = TreeDecoder(seed=2)
    images = tuple(range(12))
    how = BeamSearch(
        width=width, n=n, max_length=6, length_penalty=penalty, required_words=required
    )
    for image, found in zip(images, run(tree, how, images), strict=True):
        expected = list_beam_search(tree, image, how)
        assert [(h.tokens, h.finished) for h in found] == [(w, f) for w, _, f in expected]
        assert [h.log_prob for h in found] == pytest.approx([p for _, p, _ in expected], abs=1e-5)


def test_greedy_takes_the_most_probable_word_at_each_step():
    tree = TreeDecoder(seed=3)
    images = tuple(range(20))
    for image, (found,) in zip(images, run(tree, Greedy(max_length=5), images), strict=True):
        words, log_prob, token = (), 0.0, None
        while token != EOS and len(words) <= 5:
            after = tree.distribution(image, words)
            allowed = [*WORDS, EOS] if words else WORDS
            token = max(allowed, key=lambda w: after[w].item())
            if token == EOS or len(words) < 5:
                log_prob += after[token].item()
            words = (*words, token)
        assert found.tokens == (words[:-1] if token == EOS else words[:5])
        assert found.finished == (token == EOS)
        assert found.log_prob == pytest.approx(log_prob, abs=1e-5)


def test_greedy_is_beam_search_of_width_one():
    tree = TreeDecoder(seed=4)
    images = tuple(range(20))
    assert run(tree, Greedy(), images) == run(tree, BeamSearch(width=1), images)


@pytest.mark.parametrize(
    "how",
    [
        Greedy(max_length=6),
        BeamSearch(width=3, n=3, max_length=6, length_penalty=0.5),
        BeamSearch(width=2, max_length=6, required_words=(4, 5)),
        DiverseBeamSearch(groups=3, width=2, max_length=6),
    ],
)
def test_an_image_alone_gives_what_it_gives_in_a_batch(how):
    tree = TreeDecoder(seed=5)
    together = run(tree, how, tuple(range(9)))
    alone = [run(tree, how, (image,))[0] for image in range(9)]
    assert together == alone
    assert len({found[0].tokens for found in alone}) > 3


def test_each_token_log_probability_is_that_of_the_token_after_its_prefix():
    tree = TreeDecoder(seed=6)
    for image, found in enumerate(run(tree, BeamSearch(width=4, n=4, max_length=4), (0, 1, 2))):
        for hypothesis in found:
            tokens = (*hypothesis.tokens, EOS) if hypothesis.finished else hypothesis.tokens
            expected = [
                tree.distribution(image, tokens[:t])[token].item() for t, token in enumerate(tokens)
            ]
            assert hypothesis.token_log_probs == pytest.approx(expected, abs=1e-6)
