"""Search for captions, given only a step function: it knows no pictures and no words."""

from captioning.decoding.ensemble import EnsembleState, ensemble
from captioning.decoding.hypothesis import Agreement, Hypothesis, SearchState, Step
from captioning.decoding.methods import (
    BeamSearch,
    DiverseBeamSearch,
    Greedy,
    Sampling,
    SearchMethod,
    search_from_json,
    search_to_json,
)
from captioning.decoding.search import search

__all__ = [
    "Agreement",
    "BeamSearch",
    "DiverseBeamSearch",
    "EnsembleState",
    "Greedy",
    "Hypothesis",
    "Sampling",
    "SearchMethod",
    "SearchState",
    "Step",
    "ensemble",
    "search",
    "search_from_json",
    "search_to_json",
]
