"""Search for captions, given only a step function: it knows no images and no words."""

from captioning.decoding.ensemble import EnsembleState, ensemble
from captioning.decoding.hypothesis import Hypothesis, RerankFunction, SearchState, Step
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
    "BeamSearch",
    "DiverseBeamSearch",
    "EnsembleState",
    "Greedy",
    "Hypothesis",
    "RerankFunction",
    "Sampling",
    "SearchMethod",
    "SearchState",
    "Step",
    "ensemble",
    "search",
    "search_from_json",
    "search_to_json",
]
