"""Beam search against full enumeration, on a decoder in which every prefix differs."""

import itertools

import pytest
import torch
from tree_decoder import BOS, EOS, TreeDecoder

from captioning.decoding import BeamSearch, DiverseBeamSearch, Greedy, Sampling
from captioning.decoding.constraints import TokenConstraints
from captioning.decoding.search import search

WORDS = (3, 4, 5)


def enumerate_captions(tree, image, *, max_length):
    """Return the log-probability of every finished caption."""
    return {
        caption: tree.log_prob(image, caption)
        for length in range(1, max_length + 1)
        for caption in itertools.product(WORDS, repeat=length)
    }


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.5])
def test_beam_search_wide_enough_equals_enumeration(penalty):
    tree = TreeDecoder(seed=1)
    images = (0, 1, 2)
    method = BeamSearch(width=200, n=60, max_length=4, length_penalty=penalty)
    for image, hypotheses in zip(images, tree.search(method, images), strict=True):
        captions = enumerate_captions(tree, image, max_length=4)
        scores = {c: p / (len(c) + 1) ** penalty for c, p in captions.items()}
        best = sorted(scores, key=lambda c: -scores[c])[:60]
        assert [h.tokens for h in hypotheses] == best
        for hypothesis in hypotheses:
            assert hypothesis.finished
            assert hypothesis.score == pytest.approx(scores[hypothesis.tokens], abs=1e-5)
            assert hypothesis.log_prob == pytest.approx(captions[hypothesis.tokens], abs=1e-5)


def has_double_word(tokens):
    return any(word in tokens[max(t - 2, 0) : t] for t, word in enumerate(tokens))


@pytest.mark.parametrize(
    ("settings", "required", "is_allowed"),
    [
        ({}, (3, 5), lambda caption: {3, 5} <= set(caption)),
        ({"block_repeated_words": True}, (), lambda caption: not has_double_word(caption)),
    ],
    ids=["required", "block_repeated_words"],
)
def test_beam_search_constrained_equals_enumeration(settings, required, is_allowed):
    tree = TreeDecoder(seed=5)
    method = BeamSearch(width=200, n=10, max_length=4, **settings)
    for image, hypotheses in enumerate(tree.search(method, (0, 1), required=required)):
        captions = enumerate_captions(tree, image, max_length=4)
        allowed = {c: p for c, p in captions.items() if is_allowed(c)}
        best = sorted(allowed, key=lambda c: -allowed[c])[:10]
        assert [h.tokens for h in hypotheses] == best
        assert [h.log_prob for h in hypotheses] == pytest.approx([allowed[c] for c in best])


def list_beam_search(tree, image, method: BeamSearch, required: set[int]):
    """Beam search as its docstring describes it, for one image, with lists.

    Hypotheses compete only with those that contain as many of the required words.
    """
    limit, penalty = method.max_length, method.length_penalty
    active, finished = [((), 0.0)], []
    for length in range(limit + 1):
        words_next, ends_next = [], []
        for words, log_prob in active:
            after = tree.distribution(image, words)
            words_next += [((*words, w), log_prob + after[w].item()) for w in WORDS]
            if length and required <= set(words):
                ends_next.append(((*words, EOS), log_prob + after[EOS].item()))
        before, active = active, []
        for count in range(len(required) + 1):
            bank = [c for c in words_next if len(required & set(c[0])) == count]
            active += sorted(bank, key=lambda c: -c[1])[: method.width]
        whole = [c for c in words_next if required <= set(c[0])] + ends_next
        best = sorted(whole, key=lambda c: -c[1])[: method.width]
        finished += [(w[:-1], p, p / len(w) ** penalty) for w, p in best if w[-1] == EOS]
        finished = sorted(finished, key=lambda f: -f[2])[: method.n]
        bound = max(p for _, p in active) / (limit + 1) ** penalty
        if len(finished) == method.n and finished[-1][2] >= bound:
            return [(words, p, True) for words, p, _ in finished]
    cut = [(w, p, False) for w, p in sorted(before, key=lambda c: -c[1]) if required <= set(w)]
    return ([(words, p, True) for words, p, _ in finished] + cut)[: method.n]


@pytest.mark.parametrize(("width", "n"), [(1, 1), (2, 1), (3, 3), (5, 2)])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("required", [(), (4,), (5, 3)])
def test_beam_search_narrow_follows_its_docstring(width, n, penalty, required):
    tree = TreeDecoder(seed=2)
    images = tuple(range(12))
    method = BeamSearch(width=width, n=n, max_length=6, length_penalty=penalty)
    hypotheses = tree.search(method, images, required=required)
    for image, found in zip(images, hypotheses, strict=True):
        expected = list_beam_search(tree, image, method, set(required))
        assert [(h.tokens, h.finished) for h in found] == [(w, f) for w, _, f in expected]
        assert [h.log_prob for h in found] == pytest.approx([p for _, p, _ in expected], abs=1e-5)


def test_greedy_takes_most_probable_word_at_each_step():
    tree = TreeDecoder(seed=3)
    images = tuple(range(20))
    for image, (found,) in zip(images, tree.search(Greedy(max_length=5), images), strict=True):
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


def test_beam_search_width_one_equals_greedy():
    tree = TreeDecoder(seed=4)
    images = tuple(range(20))
    assert tree.search(Greedy(), images) == tree.search(BeamSearch(width=1), images)


@pytest.mark.parametrize(
    ("method", "required"),
    [
        (Greedy(max_length=6), ()),
        (BeamSearch(width=3, n=3, max_length=6, length_penalty=0.5), ()),
        (BeamSearch(width=2, max_length=6), (4, 5)),
        (DiverseBeamSearch(groups=3, width=2, max_length=6), ()),
    ],
)
def test_search_of_one_image_equals_search_of_batch(method, required):
    tree = TreeDecoder(seed=5)
    batch = tree.search(method, range(9), required=required)
    assert batch == [tree.search(method, (i,), required=required)[0] for i in range(9)]
    assert len({hypotheses[0].tokens for hypotheses in batch}) > 3


def test_token_log_probs_match_decoder():
    tree = TreeDecoder(seed=6)
    method = BeamSearch(width=4, n=4, max_length=4)
    for image, found in enumerate(tree.search(method, (0, 1, 2))):
        for hypothesis in found:
            expected = tree.token_log_probs(image, hypothesis)
            assert hypothesis.token_log_probs == pytest.approx(expected, abs=1e-6)


def test_diverse_search_without_strength_equals_beam_search():
    tree = TreeDecoder(seed=2, size=12)
    diverse = tree.search(DiverseBeamSearch(width=2, diversity_penalty=0.0), range(10))
    assert diverse == [[best] * 3 for (best,) in tree.search(BeamSearch(width=2), range(10))]


def test_diverse_search_strong_groups_start_differently():
    tree = TreeDecoder(seed=2, size=12)
    greedy = tree.search(Greedy(), range(10))
    diverse = tree.search(DiverseBeamSearch(diversity_penalty=9.0), range(10))
    for (best,), groups in zip(greedy, diverse, strict=True):
        assert len({h.tokens[0] for h in groups}) == 3
        assert best in groups  # the first group is plain search


@pytest.mark.parametrize(
    ("diversity_penalty", "words"),
    [
        (0.6, [3, 3, 4]),  # log(0.6 / 0.3) = 0.69 lies between 0.6 and twice that
        (0.7, [3, 3, 4]),  # the third group pays 0.7 for either word, so the first wins again
        (2.0, [3, 4, 5]),  # log(0.6 / 0.1) = 1.79
    ],
)
def test_diverse_search_pays_penalty_per_repeated_word(diversity_penalty, words):
    def step(tokens, state):
        first = torch.tensor([0.0, 0.0, 0.0, 0.6, 0.3, 0.1]).log()
        last = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 0.0]).log()
        return torch.stack([first if t == BOS else last for t in tokens.tolist()]), state

    method = DiverseBeamSearch(groups=3, diversity_penalty=diversity_penalty)
    state = TreeDecoder(seed=0).start((0,))
    (found,) = search(step, state, method, TokenConstraints(BOS, EOS))
    assert [h.tokens[0] for h in found] == words


@pytest.mark.parametrize(
    "method",
    [
        Greedy(max_length=9),
        BeamSearch(width=3, n=2, max_length=9),
        DiverseBeamSearch(groups=2, width=2, max_length=9),
        Sampling(n=3, max_length=9),
    ],
    ids=lambda method: type(method).__name__,
)
def test_search_finished_images_leave_the_batch(method):
    images = tuple(range(12))
    tree = TreeDecoder(seed=4)
    rows = []
    step = tree.step
    tree.step = lambda tokens, state: rows.append(len(tokens)) or step(tokens, state)
    generator = torch.Generator()
    found = tree.search(method, images, generator=generator.manual_seed(1))
    assert rows[-1] < rows[1], "no image left before the last step"
    for image in images:
        keys = torch.tensor([image])
        alone = tree.search(method, (image,), generator=generator.manual_seed(1), keys=keys)
        assert found[image] == alone[0]
