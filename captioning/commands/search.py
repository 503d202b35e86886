"""How a command line's wishes become a search."""

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes seconds to import, and --help needs none of it
    from captioning.decoding import SearchMethod


def chosen_search(
    own: "SearchMethod",
    *,
    sample: bool,
    beam: int | None,
    captions: int,
    temperature: float,
    top_k: int,
    top_p: float,
) -> "SearchMethod":
    """Return the search that was asked for.

    Args:
        own: The model's own; its lengths and its rules stay.
        sample: Draw the words at random.
        beam: Beam search of this width.
        captions: Captions for each picture.
        temperature: Of sampling.
        top_k: Of sampling.
        top_p: Of sampling.

    Raises:
        SettingsError: They make no sense together.
    """
    from captioning.decoding import BeamSearch, Sampling, SearchMethod

    rules = {rule.name: getattr(own, rule.name) for rule in dataclasses.fields(SearchMethod)}
    if sample:
        return Sampling(**rules, temperature=temperature, top_k=top_k, top_p=top_p, n=captions)
    if beam is None and captions == 1:
        return own
    before = own if isinstance(own, BeamSearch) else BeamSearch(**rules)
    width = beam if beam is not None else max(before.width, captions)
    return dataclasses.replace(before, width=width, n=captions)
