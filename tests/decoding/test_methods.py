"""The settings of search refuse nonsense and go through JSON unchanged."""

import json

import pytest

from captioning.decoding import (
    BeamSearch,
    DiverseBeamSearch,
    Greedy,
    Sampling,
    search_from_json,
    search_to_json,
)
from captioning.errors import ConfigError


@pytest.mark.parametrize(
    "how",
    [
        Greedy(),
        BeamSearch(width=5, n=2, length_penalty=0.7, forbidden_words=(4, 5), required_words=(6,)),
        DiverseBeamSearch(groups=2, strength=1.0, no_double_word=True),
        Sampling(temperature=0.7, top_k=10, top_p=0.9, n=4, min_length=3, no_repeat_ngram=2),
    ],
)
def test_a_search_comes_back_from_json_as_it_was(how):
    assert search_from_json(json.loads(json.dumps(search_to_json(how)))) == how


def test_settings_left_out_of_json_have_their_defaults():
    assert search_from_json({"method": "beam_search", "width": 4}) == BeamSearch(width=4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"method": "beam_serch"}, "Did you mean 'beam_search'"),
        ({"width": 3}, "search method is None"),
        ({"method": "beam_search", "widht": 3}, "Did you mean 'width'"),
        ({"method": "greedy", "forbidden_words": 3}, "a list of word ids"),
        ({"method": "beam_search", "width": 0}, "width is 0"),
    ],
)
def test_json_that_makes_no_sense_is_refused(content, message):
    with pytest.raises(ConfigError, match=message):
        search_from_json(content)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Greedy, {"max_length": 10**9}, "max_length is 1000000000; it is at most 10000"),
        (BeamSearch, {"width": 10**6}, "width is 1000000; it is at most 10000"),
        (BeamSearch, {"length_penalty": 1e9}, "length_penalty is 1000000000.0; it is at most 20"),
        (DiverseBeamSearch, {"groups": 10**6}, "groups is 1000000; it is at most 1000"),
        (DiverseBeamSearch, {"strength": 1e30}, "strength is 1e[+]30; it is at most 1000000"),
        (Sampling, {"n": 10**9}, "n is 1000000000; it is at most 100000"),
        (Sampling, {"temperature": 1e-300}, "temperature is 1e-300; it is at least 1e-06"),
        (Sampling, {"temperature": 1e30}, "temperature is 1e[+]30; it is at most 1000000"),
        (Greedy, {"min_length": -1}, "min_length is -1; it is a whole number, at least 0"),
        (Greedy, {"max_length": 0}, "max_length is 0; it is a whole number, at least 1"),
        (Greedy, {"min_length": 9, "max_length": 8}, "Lower min_length or raise max_length"),
        (Greedy, {"no_repeat_ngram": -1}, "no_repeat_ngram is -1"),
        (Greedy, {"forbidden_words": (-1,)}, "forbidden_words holds -1"),
        (Greedy, {"forbidden_words": (4,), "required_words": (4,)}, "both required and forbidden"),
        (Greedy, {"required_words": (4, 4)}, "twice"),
        (Greedy, {"required_words": (4, 5), "max_length": 1}, "2 words are required"),
        (BeamSearch, {"width": 0}, "width is 0"),
        (BeamSearch, {"width": 2, "n": 3}, "Raise width or lower n"),
        (BeamSearch, {"length_penalty": -0.1}, "length_penalty is -0.1; it is a finite number"),
        (BeamSearch, {"length_penalty": float("nan")}, "length_penalty is nan"),
        (DiverseBeamSearch, {"groups": 0}, "groups is 0"),
        (DiverseBeamSearch, {"strength": -1.0}, "strength is -1.0"),
        (Sampling, {"temperature": 0.0}, "use Greedy for the most probable words"),
        (Sampling, {"temperature": float("inf")}, "temperature is inf"),
        (Sampling, {"top_k": -1}, "top_k is -1"),
        (Sampling, {"top_p": 0.0}, "top_p is 0.0; it is a number above 0 and at most 1"),
        (Sampling, {"top_p": 1.5}, "top_p is 1.5"),
        (Sampling, {"n": 0}, "n is 0"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(kind, settings, message):
    with pytest.raises(ConfigError, match=message):
        kind(**settings)
