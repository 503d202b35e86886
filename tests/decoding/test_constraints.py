"""The wishes that all ways of searching honour, checked on what comes out."""

import itertools

import pytest
import torch
from tree_decoder import BOS, EOS, PAD, TreeDecoder

from captioning.decoding import BeamSearch, DiverseBeamSearch, Greedy, Sampling, search
from captioning.errors import SearchError

METHODS = [
    (Greedy, {}),
    (BeamSearch, {"width": 3, "n": 3}),
    (DiverseBeamSearch, {"groups": 3, "width": 2}),
    (Sampling, {"n": 3}),
    (Sampling, {"n": 3, "top_p": 0.8}),
]
each_method = pytest.mark.parametrize(("method", "settings"), METHODS)
IMAGES = range(10)


def captions(method, settings, *, size=8, banned=(PAD,), seed=1, **wishes):
    """All hypotheses found for ten images."""
    tree = TreeDecoder(seed=seed, size=size)
    how = method(**settings, **wishes)
    generator = torch.Generator().manual_seed(0)
    found = search(
        tree.step, tree.start(IMAGES), how, bos=BOS, eos=EOS, banned=banned, generator=generator
    )
    assert len(found) == len(IMAGES)
    expected = settings.get("groups", settings.get("n", 1))
    assert all(len(hypotheses) == expected for hypotheses in found)
    return [hypothesis for hypotheses in found for hypothesis in hypotheses]


@each_method
def test_banned_tokens_never_occur(method, settings):
    for found in captions(method, settings, banned=(PAD, 3)):
        assert not {PAD, BOS, EOS, 3} & set(found.tokens)


@each_method
def test_forbidden_words_never_occur(method, settings):
    words = {w for h in captions(method, settings, forbidden_words=(4, 6)) for w in h.tokens}
    assert words <= {3, 5, 7}
    assert {4, 6} <= {w for h in captions(method, settings) for w in h.tokens}


@each_method
def test_captions_are_as_long_and_as_short_as_wished(method, settings):
    lengths = [len(h.tokens) for h in captions(method, settings, min_length=4, max_length=6)]
    assert min(lengths) == 4
    assert max(lengths) == 6
    free = [len(h.tokens) for h in captions(method, settings)]
    assert min(free) < 4
    assert max(free) > 6


@each_method
@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_ngram_occurs_twice(method, settings, n):
    def repeats(hypothesis):
        ngrams = [hypothesis.tokens[i : i + n] for i in range(len(hypothesis.tokens) - n + 1)]
        return len(set(ngrams)) < len(ngrams)

    wishes = {"size": {1: 14, 2: 8, 3: 6}[n], "min_length": 8, "max_length": 9}
    if n == 3 or method is not Greedy:
        assert any(repeats(h) for h in captions(method, settings, **wishes))
    assert not any(repeats(h) for h in captions(method, settings, no_repeat_ngram=n, **wishes))


def has_double_word(tokens):
    return any(word in tokens[max(place - 2, 0) : place] for place, word in enumerate(tokens))


@each_method
@pytest.mark.parametrize("required", [(), (4, 6)])
def test_no_word_comes_twice_in_a_row_nor_with_one_between(method, settings, required):
    wishes = {"min_length": 6, "max_length": 8, "required_words": required}
    assert any(has_double_word(h.tokens) for h in captions(method, settings, **wishes))
    found = captions(method, settings, no_double_word=True, **wishes)
    assert not any(has_double_word(h.tokens) for h in found)
    later = [
        one == other for h in found for one, other in zip(h.tokens, h.tokens[3:], strict=False)
    ]
    assert any(later)  # then it may come again


@each_method
def test_required_words_all_occur(method, settings):
    free = captions(method, settings)
    assert not all({4, 6, 7} <= set(h.tokens) for h in free)
    for found in captions(method, settings, required_words=(4, 6, 7)):
        assert {4, 6, 7} <= set(found.tokens)
    for found in captions(method, settings, required_words=(4, 6, 7), max_length=3):
        assert sorted(found.tokens) == [4, 6, 7]


@pytest.mark.parametrize(
    ("wishes", "meets"),
    [
        ({"required_words": (3, 5)}, lambda caption: {3, 5} <= set(caption)),
        ({"no_double_word": True}, lambda caption: not has_double_word(caption)),
    ],
    ids=lambda part: next(iter(part)) if isinstance(part, dict) else "",
)
def test_a_beam_wide_enough_finds_the_best_captions_that_meet_a_wish(wishes, meets):
    tree = TreeDecoder(seed=5)
    how = BeamSearch(width=200, n=10, max_length=4, **wishes)
    found = search(tree.step, tree.start((0, 1)), how, bos=BOS, eos=EOS, banned=(PAD,))
    for image, hypotheses in enumerate(found):
        allowed = {
            caption: tree.log_prob(image, caption)
            for length in range(1, 5)
            for caption in itertools.product((3, 4, 5), repeat=length)
            if meets(caption)
        }
        best = sorted(allowed, key=lambda c: -allowed[c])[:10]
        assert [h.tokens for h in hypotheses] == best
        assert [h.log_prob for h in hypotheses] == pytest.approx([allowed[c] for c in best])


def test_search_stops_when_all_images_are_done():
    """A table in which the word after t words is certain to be the last shows each call."""
    for longest in (1, 3, 6):
        calls = []

        def step(tokens, state, longest=longest, calls=calls):
            calls.append(len(tokens))
            row = torch.full((5,), -20.0)
            row[EOS if len(calls) > longest else 3] = 0.0
            return row.expand(len(tokens), 5).log_softmax(1), state

        state = TreeDecoder(seed=0).start((0, 1))
        for how in (Greedy(), BeamSearch(width=2), Sampling()):
            calls.clear()
            (best, *_), _ = search(step, state, how, bos=BOS, eos=EOS)
            assert len(best.tokens) == longest
            assert len(calls) == longest + 1


def test_a_cut_caption_says_that_it_is_unfinished():
    def step(tokens, state):
        row = torch.tensor([-20.0, -20.0, -20.0, 0.0, -1.0])
        return row.expand(len(tokens), 5).log_softmax(1), state

    state = TreeDecoder(seed=0).start((0,))
    for how in (Greedy(max_length=4), BeamSearch(max_length=4)):
        ((best,),) = search(step, state, how, bos=BOS, eos=EOS)
        assert best.tokens == (3, 3, 3, 3)
        assert not best.finished
        assert len(best.token_log_probs) == 4


def test_groups_of_no_strength_are_the_same_and_of_strength_differ():
    tree = TreeDecoder(seed=2, size=12)

    def found(how):
        return search(tree.step, tree.start(IMAGES), how, bos=BOS, eos=EOS, banned=(PAD,))

    same, plain = found(DiverseBeamSearch(width=2, strength=0.0)), found(BeamSearch(width=2))
    assert same == [[best] * 3 for (best,) in plain]
    for (best,), groups in zip(
        found(Greedy()), found(DiverseBeamSearch(strength=9.0)), strict=True
    ):
        assert len({h.tokens[0] for h in groups}) == 3
        assert best in groups  # the first group is plain search


def test_groups_choose_as_the_penalty_says():
    """Three words of known probability: what the second group takes first is arithmetic."""

    def step(tokens, state):
        first = torch.tensor([0.0, 0.0, 0.0, 0.6, 0.3, 0.1]).log()
        last = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 0.0]).log()
        return torch.stack([first if t == BOS else last for t in tokens.tolist()]), state

    def words(strength):
        how = DiverseBeamSearch(groups=3, strength=strength)
        (found,) = search(step, TreeDecoder(seed=0).start((0,)), how, bos=BOS, eos=EOS)
        return [h.tokens[0] for h in found]

    assert words(0.6) == [3, 3, 4]  # log(0.6 / 0.3) = 0.69 lies between 0.6 and twice that
    assert words(0.7) == [3, 3, 4]  # the third group pays 0.7 for either, and 3 is again the better
    assert words(2.0) == [3, 4, 5]  # log(0.6 / 0.1) = 1.79


def test_wishes_that_cannot_be_met_are_named():
    tree = TreeDecoder(seed=0)
    state = tree.start((0,))
    for how in (BeamSearch(forbidden_words=(3, 4, 5)), Sampling(forbidden_words=(3, 4, 5))):
        with pytest.raises(SearchError, match="No caption of image 0 of the batch meets"):
            search(tree.step, state, how, bos=BOS, eos=EOS, banned=(PAD,))
    with pytest.raises(SearchError, match="Token 99 is named in the search, but the model has 6"):
        search(tree.step, state, Greedy(required_words=(99,)), bos=BOS, eos=EOS)
    with pytest.raises(SearchError, match=r"Required words \[0\] are special tokens"):
        search(tree.step, state, Greedy(required_words=(0,)), bos=BOS, eos=EOS, banned=(PAD,))
    with pytest.raises(SearchError, match="end token 2 is forbidden"):
        search(tree.step, state, Greedy(forbidden_words=(EOS,)), bos=BOS, eos=EOS)


def test_a_step_function_that_gives_nonsense_is_found_out():
    state = TreeDecoder(seed=0).start((0,))
    with pytest.raises(SearchError, match=r"shape \(6,\) for 1 rows"):
        search(lambda t, s: (torch.zeros(6), s), state, Greedy(), bos=BOS, eos=EOS)
    with pytest.raises(SearchError, match="not numbers"):
        search(lambda t, s: (torch.full((1, 6), torch.nan), s), state, Greedy(), bos=BOS, eos=EOS)


@each_method
def test_what_the_step_function_returns_is_left_as_it_was(method, settings):
    """One tensor returned at every step, as a table of numbers may."""
    kept = {}

    def step(tokens, state):
        if len(tokens) not in kept:
            kept[len(tokens)] = torch.randn(len(tokens), 8).log_softmax(1)
        returned.setdefault(len(tokens), kept[len(tokens)].clone())
        return kept[len(tokens)], state

    returned = {}
    how = method(**settings, min_length=3, required_words=(5,), no_repeat_ngram=2)
    search(step, TreeDecoder(seed=0).start((0, 1)), how, bos=BOS, eos=EOS)
    assert all(torch.equal(kept[rows], returned[rows]) for rows in kept)


def test_no_images_give_no_captions():
    tree = TreeDecoder(seed=0)
    assert search(tree.step, tree.start(()), Greedy(), bos=BOS, eos=EOS) == []
