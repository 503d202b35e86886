"""The constraints of all search methods, checked on the captions found."""

import pytest
import torch
from tree_decoder import BOS, EOS, PAD, TreeDecoder

from captioning.decoding import BeamSearch, DiverseBeamSearch, Greedy, Sampling, SearchMethod
from captioning.decoding.constraints import TokenConstraints
from captioning.decoding.search import search
from captioning.errors import ConfigError, SearchError
from captioning.text.vocabulary import Vocabulary

each_method = pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Greedy, {}),
        (BeamSearch, {"width": 3, "n": 3}),
        (DiverseBeamSearch, {"groups": 3, "width": 2}),
        (Sampling, {"n": 3}),
        (Sampling, {"n": 3, "top_p": 0.8}),
    ],
)
IMAGES = range(10)


def find(kind, settings, *, size=8, banned=(PAD,), required=(), **rules):
    """Return all hypotheses for ten images."""
    tree = TreeDecoder(seed=1, size=size)
    generator = torch.Generator().manual_seed(0)
    method = kind(**settings, **rules)
    found = tree.search(method, IMAGES, banned=banned, required=required, generator=generator)
    assert len(found) == len(IMAGES)
    expected = settings.get("groups", settings.get("n", 1))
    assert all(len(hypotheses) == expected for hypotheses in found)
    return [hypothesis for hypotheses in found for hypothesis in hypotheses]


@each_method
def test_search_banned_tokens_never_occur(kind, settings):
    free = {token for h in find(kind, settings) for token in h.tokens}
    assert {4, 6} <= free
    assert not {PAD, BOS, EOS} & free
    tokens = {token for h in find(kind, settings, banned=(PAD, 4, 6)) for token in h.tokens}
    assert tokens <= {3, 5, 7}


@each_method
def test_search_length_limits_hold(kind, settings):
    lengths = [len(h.tokens) for h in find(kind, settings, min_length=4, max_length=6)]
    assert min(lengths) == 4
    assert max(lengths) == 6
    free = [len(h.tokens) for h in find(kind, settings)]
    assert min(free) < 4
    assert max(free) > 6


@each_method
@pytest.mark.parametrize("n", [1, 2, 3])
def test_search_no_repeat_ngram_holds(kind, settings, n):
    def repeats(hypothesis):
        ngrams = [hypothesis.tokens[i : i + n] for i in range(len(hypothesis.tokens) - n + 1)]
        return len(set(ngrams)) < len(ngrams)

    options = {"size": {1: 14, 2: 8, 3: 6}[n], "min_length": 8, "max_length": 9}
    if n == 3 or kind is not Greedy:
        assert any(repeats(h) for h in find(kind, settings, **options))
    assert not any(repeats(h) for h in find(kind, settings, no_repeat_ngram=n, **options))


@each_method
@pytest.mark.parametrize("required", [(), (4, 6)])
def test_search_block_repeated_words_holds(kind, settings, required):
    def repeats(tokens, gaps):
        return any(a == b for gap in gaps for a, b in zip(tokens, tokens[gap:], strict=False))

    options = {"min_length": 6, "max_length": 8, "required": required}
    assert any(repeats(h.tokens, (1, 2)) for h in find(kind, settings, **options))
    found = find(kind, settings, block_repeated_words=True, **options)
    assert not any(repeats(h.tokens, (1, 2)) for h in found)
    assert any(repeats(h.tokens, (3,)) for h in found)


@each_method
def test_search_required_words_all_occur(kind, settings):
    required = (4, 6, 7)
    assert not all(set(required) <= set(h.tokens) for h in find(kind, settings))
    for hypothesis in find(kind, settings, required=required):
        assert set(required) <= set(hypothesis.tokens)
    for hypothesis in find(kind, settings, required=required, max_length=3):
        assert sorted(hypothesis.tokens) == [4, 6, 7]


@each_method
def test_search_leaves_step_output_unchanged(kind, settings):
    outputs, copies = {}, {}

    def step(tokens, state):  # returns one tensor at every step, as a lookup table may
        if len(tokens) not in outputs:
            outputs[len(tokens)] = torch.randn(len(tokens), 8).log_softmax(1)
            copies[len(tokens)] = outputs[len(tokens)].clone()
        return outputs[len(tokens)], state

    method = kind(**settings, min_length=3, no_repeat_ngram=2)
    search(step, TreeDecoder(seed=0).start((0, 1)), method, TokenConstraints(BOS, EOS, (), (5,)))
    assert all(torch.equal(outputs[rows], copies[rows]) for rows in outputs)


@pytest.mark.parametrize("method", [Greedy(), BeamSearch(width=2), Sampling()])
@pytest.mark.parametrize("length", [1, 3, 6])
def test_search_stops_when_all_images_are_done(method, length):
    calls = []

    def step(tokens, state):
        calls.append(len(tokens))
        row = torch.full((5,), -20.0)
        row[EOS if len(calls) > length else 3] = 0.0
        return row.expand(len(tokens), 5).log_softmax(1), state

    state = TreeDecoder(seed=0).start((0, 1))
    (best, *_), _ = search(step, state, method, TokenConstraints(BOS, EOS))
    assert len(best.tokens) == length
    assert len(calls) == length + 1


@pytest.mark.parametrize("method", [Greedy(max_length=4), BeamSearch(max_length=4)])
def test_search_cut_caption_is_unfinished(method):
    def step(tokens, state):
        row = torch.tensor([-20.0, -20.0, -20.0, 0.0, -1.0])
        return row.expand(len(tokens), 5).log_softmax(1), state

    state = TreeDecoder(seed=0).start((0,))
    ((best,),) = search(step, state, method, TokenConstraints(BOS, EOS))
    assert best.tokens == (3, 3, 3, 3)
    assert not best.finished
    assert len(best.token_log_probs) == 4


@pytest.mark.parametrize("kind", [BeamSearch, Sampling])
def test_search_without_possible_caption_is_refused(kind):
    with pytest.raises(SearchError, match="image 0 of the batch: no caption meets"):
        TreeDecoder(seed=0).search(kind(), banned=(PAD, 3, 4, 5))


@pytest.mark.parametrize(
    ("method", "constraints", "message"),
    [
        (Greedy(), {"required": (99,)}, "token id 99, but the model has only 6 words"),
        (Greedy(max_length=1), {"required": (3, 4)}, "2 tokens are required, but max_length is 1"),
        (Greedy(required_words=("dog",)), {}, "constraints do not have"),
        (Greedy(forbidden_words=("dog", "cat")), {}, "constraints do not have"),
        (SearchMethod(), {}, "search is SearchMethod.*; it must be one of Greedy, BeamSearch"),
    ],
)
def test_search_contradictory_constraints_are_refused(method, constraints, message):
    with pytest.raises(SearchError, match=message):
        TreeDecoder(seed=0).search(method, **constraints)


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        ({"banned": (EOS,)}, "end token 2 is banned"),
        ({"banned": (PAD,), "required": (PAD,)}, r"required tokens \[0\] are never generated"),
        ({"required": (4, 4)}, "contain one twice"),
    ],
)
def test_token_constraints_contradictory_are_refused(constraints, message):
    with pytest.raises(SearchError, match=message):
        TokenConstraints(BOS, EOS, **constraints)


def test_token_constraints_resolve_words_to_ids():
    vocabulary = Vocabulary.build([["dog", "cat", "man"]], min_count=1)
    method = Greedy(required_words=("dog", "cat"), forbidden_words=("man",))
    constraints = TokenConstraints.resolve(method, vocabulary)
    assert constraints.required == (vocabulary.id("dog"), vocabulary.id("cat"))
    special = (vocabulary.pad, vocabulary.bos, vocabulary.unk)
    assert constraints.banned == (*special, vocabulary.id("man"))
    assert (constraints.bos, constraints.eos) == (vocabulary.bos, vocabulary.eos)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"required_words": ("Dog",)}, "required_words has .* does not know 'Dog'.*mean 'dog'"),
        (
            {"forbidden_words": ("dog", "mann", "x")},
            "forbidden_words has .*'mann', 'x'.*mean 'man'",
        ),
        ({"required_words": ("<unk>",)}, "does not know '<unk>'"),
    ],
)
def test_token_constraints_unknown_words_are_refused(words, message):
    vocabulary = Vocabulary.build([["dog", "cat", "man"]], min_count=1)
    with pytest.raises(ConfigError, match=message):
        TokenConstraints.resolve(Greedy(**words), vocabulary)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.zeros(6), r"shape \(6,\); \(1, words\) was expected"),
        (torch.full((1, 6), torch.nan), "NaN"),
    ],
)
def test_search_invalid_step_output_is_refused(output, message):
    state = TreeDecoder(seed=0).start((0,))
    with pytest.raises(SearchError, match=message):
        search(lambda tokens, s: (output, s), state, Greedy(), TokenConstraints(BOS, EOS))


def test_search_without_images_returns_nothing():
    assert TreeDecoder(seed=0).search(Greedy(), ()) == []
