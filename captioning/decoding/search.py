"""The one entrance to all ways of searching."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from captioning.decoding.beam import Beams, beam_search
from captioning.decoding.hypothesis import Hypothesis, RerankFunction, SearchState, Step
from captioning.decoding.methods import (
    BeamSearch,
    DiverseBeamSearch,
    Greedy,
    Sampling,
    SearchMethod,
)
from captioning.decoding.rules import Rules
from captioning.decoding.sampling import sample
from captioning.errors import SearchError


@torch.no_grad()
def search(
    step: Step,
    state: SearchState,
    how: SearchMethod,
    *,
    bos: int,
    eos: int,
    banned: Sequence[int] = (),
    generator: torch.Generator | None = None,
    keys: Int[Tensor, " B"] | None = None,
    agreement: RerankFunction | None = None,
) -> list[list[Hypothesis]]:
    """Find captions for a batch of images.

    All images are searched together, with no loop over images or hypotheses, until the last is
    done; no image's captions depend on the others'. What a beam found is ranked by its agreement
    with phrases afterwards, image by image.

    Args:
        step: Reads one token per row: ``step(tokens (N,), state) -> (log_probs (N, V), state)``.
        state: The state of one row per image, before the first token.
        how: ``Greedy``, ``BeamSearch``, ``DiverseBeamSearch`` or ``Sampling``, with its settings.
        bos: The token to begin with.
        eos: The token that ends a caption.
        banned: Tokens never emitted, such as ``<pad>`` and ``<unk>``; ``bos`` never is.
        generator: The source of chance, for sampling; one number is drawn from it per call. None
            for torch's own.
        keys: For sampling, a number for each image that names its own stream of chance: with a
            generator in the same state, an image of the same key gets the same captions in any
            batch. None for its place in the batch.
        agreement: What a beam search with ``rerank_weight`` asks at its end.

    Returns:
        For each image its hypotheses, best first: finished ones by falling score, then cut ones.

    Raises:
        SearchError: The wishes contradict each other or the model, no caption meets them, or
            ``how`` is no search.
    """
    if not isinstance(how, SearchMethod):
        found = f"the class {how.__name__}" if isinstance(how, type) else f"{how!r:.80}"
        raise SearchError(f"search is {found}; a search such as BeamSearch(width=5) was expected.")
    if not len(state):
        return []
    device = getattr(state, "device", torch.device("cpu"))
    rules = Rules.build(how, bos, eos, banned, device)
    match how:
        case Greedy():
            return beam_search(step, state, rules, Beams(width=1))
        case BeamSearch(reranks=False):
            return beam_search(step, state, rules, Beams(how.width, how.n, how.length_penalty))
        case BeamSearch():
            if agreement is None:
                raise SearchError(
                    f"The search has a rerank_weight of {how.rerank_weight:g}, and nothing was "
                    "given that expects phrases. Set it to 0, or give an agreement."
                )
            beams = Beams(how.width, how.width, how.length_penalty)
            return _ranked(beam_search(step, state, rules, beams), how, agreement)
        case DiverseBeamSearch():
            beams = Beams(how.width, 1, how.length_penalty, how.groups, how.strength)
            return beam_search(step, state, rules, beams)
        case Sampling():
            return sample(step, state, rules, how, generator=generator, keys=keys)
    raise SearchError(
        f"There is no search for {type(how).__name__}; there are Greedy, BeamSearch, "
        "DiverseBeamSearch and Sampling."
    )


def _ranked(
    found: list[list[Hypothesis]], how: BeamSearch, agreement: RerankFunction
) -> list[list[Hypothesis]]:
    """Rank what a beam found by the agreement too, and return as many as are asked for."""
    ranked = []
    for image, hypotheses in enumerate(found):
        agreed = agreement(image, [each.tokens for each in hypotheses])
        scored = [
            replace(each, score=each.score + how.rerank_weight * value)
            for each, value in zip(hypotheses, agreed, strict=True)
        ]
        ranked.append(sorted(scored, key=lambda h: (not h.finished, -h.score))[: how.n])
    return ranked
