"""The settings of search methods: their ranges, and their form in JSON."""

import json

import jaxtyping
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
    "method",
    [
        Greedy(),
        BeamSearch(width=5, n=2, length_penalty=0.7, forbidden_words=("a",), required_words=("b",)),
        DiverseBeamSearch(groups=2, diversity_penalty=1.0, block_repeated_words=True),
        Sampling(temperature=0.7, top_k=10, top_p=0.9, n=4, min_length=3, no_repeat_ngram=2),
    ],
)
def test_search_json_round_trip_is_exact(method):
    assert search_from_json(json.loads(json.dumps(search_to_json(method)))) == method


def test_search_from_json_missing_settings_get_defaults():
    assert search_from_json({"method": "beam", "width": 4}) == BeamSearch(width=4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"method": "beem"}, "Did you mean 'beam'"),
        ({"width": 3}, "method: expected one of greedy, beam, diverse, sampling"),
        ({"method": "beam", "widht": 3}, "widht: unknown field. Did you mean 'width'"),
        ({"method": "greedy", "forbidden_words": 3}, "forbidden_words: expected a list"),
        ({"method": "greedy", "required_words": [3]}, r"required_words\[0\]: expected a string"),
        ({"method": "beam", "width": 0}, "x.json: width is 0"),
    ],
)
def test_search_from_json_bad_content_is_refused(content, message):
    with pytest.raises(ConfigError, match=message):
        search_from_json(content, source="x.json")


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Greedy, {"max_length": 10**9}, "must be a whole number from 1 to 10,000"),
        (Greedy, {"min_length": -1}, "min_length is -1"),
        (Greedy, {"max_length": 0}, "max_length is 0"),
        (Greedy, {"min_length": True}, "min_length is True"),
        (Greedy, {"max_length": 5.0}, "max_length is 5.0"),
        (Greedy, {"block_repeated_words": 1}, "must be True or False"),
        (Greedy, {"required_words": "dog"}, "required_words is 'dog'"),
        (Greedy, {"min_length": 9, "max_length": 8}, "Lower min_length or raise max_length"),
        (Greedy, {"no_repeat_ngram": -1}, "no_repeat_ngram is -1"),
        (Greedy, {"forbidden_words": ("",)}, r"forbidden_words is \('',\)"),
        (Greedy, {"forbidden_words": ("a",), "required_words": ("a",)}, "required and forbidden"),
        (Greedy, {"required_words": ("a", "a")}, "contains a word twice"),
        (Greedy, {"required_words": ("a", "b"), "max_length": 1}, "2 words are required"),
        (BeamSearch, {"width": 0}, "width is 0"),
        (BeamSearch, {"width": 10**6}, "width is 1000000"),
        (BeamSearch, {"width": 2, "n": 3}, "Raise width or lower n"),
        (BeamSearch, {"length_penalty": -0.1}, "must be a number from 0 to 20"),
        (BeamSearch, {"length_penalty": float("nan")}, "length_penalty is nan"),
        (BeamSearch, {"rerank_weight": -1.0}, "rerank_weight is -1.0"),
        (DiverseBeamSearch, {"groups": 0}, "groups is 0"),
        (DiverseBeamSearch, {"groups": 10**6}, "groups is 1000000"),
        (DiverseBeamSearch, {"diversity_penalty": -1.0}, "diversity_penalty is -1.0"),
        (DiverseBeamSearch, {"diversity_penalty": 1e30}, "diversity_penalty is 1e[+]30"),
        (Sampling, {"temperature": 0.0}, "temperature is 0.0"),
        (Sampling, {"temperature": float("inf")}, "temperature is inf"),
        (Sampling, {"top_k": -1}, "top_k is -1"),
        (Sampling, {"top_p": 0.0}, "top_p is 0; it must be above 0"),
        (Sampling, {"top_p": 1.5}, "top_p is 1.5"),
        (Sampling, {"n": 10**9}, "n is 1000000000"),
    ],
)
def test_search_method_bad_setting_is_refused(kind, settings, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users
    with pytest.raises(ConfigError, match=message):
        kind(**settings)
