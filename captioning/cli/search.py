"""How a command line's wishes become a search."""

import dataclasses
from typing import TYPE_CHECKING

from captioning.errors import ConfigError

if TYPE_CHECKING:  # torch takes seconds to import, and --help needs none of it
    from captioning.decoding import SearchMethod


def chosen_search(
    own: "SearchMethod",
    *,
    sample: bool = False,
    beam: int | None = None,
    captions: int = 1,
    length_penalty: float | None = None,
    no_repeat_ngram: int | None = None,
    no_double_word: bool = False,
    rerank_weight: float | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> "SearchMethod":
    """Return the search that was asked for.

    Args:
        own: The model's own; what is not asked for stays as it is there.
        sample: Draw the words at random.
        beam: Beam search of this width.
        captions: Captions for each image.
        length_penalty: Of beam search.
        no_repeat_ngram: No sequence of so many words twice; 0 for no such rule.
        no_double_word: No word twice in a row, nor with one other word between.
        rerank_weight: What the phrases that an image makes likely count, of beam search.
        temperature: Of sampling.
        top_k: Of sampling.
        top_p: Of sampling.

    Raises:
        ConfigError: They make no sense together.
    """
    from captioning.decoding import BeamSearch, Sampling, SearchMethod

    if beam is not None and beam < 1:
        raise ConfigError(f"beam is {beam}; it is at least 1.")
    if beam is not None and captions > beam:
        raise ConfigError(
            f"captions is {captions} and beam {beam}; a beam gives as many captions as it is wide, "
            "at most. Widen the beam or ask for fewer."
        )
    if no_repeat_ngram is not None:
        own = dataclasses.replace(own, no_repeat_ngram=no_repeat_ngram)
    if no_double_word:
        own = dataclasses.replace(own, no_double_word=True)
    rules = {rule.name: getattr(own, rule.name) for rule in dataclasses.fields(SearchMethod)}
    if sample:
        return Sampling(**rules, temperature=temperature, top_k=top_k, top_p=top_p, n=captions)
    if not rerank_weight and not isinstance(own, BeamSearch):
        rerank_weight = None  # it counts no phrases as it is
    if beam is None and length_penalty is None and rerank_weight is None and captions == 1:
        return own
    before = own if isinstance(own, BeamSearch) else BeamSearch(**rules)
    width = beam if beam is not None else max(before.width, captions)
    penalty = before.length_penalty if length_penalty is None else length_penalty
    weight = before.rerank_weight if rerank_weight is None else rerank_weight
    return dataclasses.replace(
        before, width=width, length_penalty=penalty, n=captions, rerank_weight=weight
    )
