"""Search for captions, given only a step function.

The search methods are imported here because they do not need torch. The search itself is in
:mod:`captioning.decoding.search`.
"""

from captioning.decoding.methods import (
    METHODS,
    BeamSearch,
    DiverseBeamSearch,
    Greedy,
    Sampling,
    SearchMethod,
    change_search,
    search_from_json,
    search_to_json,
)

__all__ = [
    "METHODS",
    "BeamSearch",
    "DiverseBeamSearch",
    "Greedy",
    "Sampling",
    "SearchMethod",
    "change_search",
    "search_from_json",
    "search_to_json",
]
