"""The entry point of all search methods."""

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from captioning.decoding.beam import beam_search
from captioning.decoding.constraints import TokenConstraints, TokenRules
from captioning.decoding.hypothesis import Hypothesis, RerankFunction, SearchState, Step
from captioning.decoding.methods import BeamSearch, Sampling, SearchMethod, check_method
from captioning.decoding.sampling import sample
from captioning.errors import SearchError


@torch.no_grad()
def search(
    step: Step,
    state: SearchState,
    method: SearchMethod,
    constraints: TokenConstraints,
    *,
    generator: torch.Generator | None = None,
    keys: Int[Tensor, " B"] | None = None,
    rerank: RerankFunction | None = None,
) -> list[list[Hypothesis]]:
    """Find captions for a batch of images.

    All images are searched at once, without loops over images or hypotheses. The captions of an
    image do not depend on the other images of the batch.

    Args:
        step: Step function: ``step(tokens (N,), state) -> (log_probs (N, V), state)``.
        state: Decoder state before the first token, with one row per image.
        method: ``Greedy``, ``BeamSearch``, ``DiverseBeamSearch`` or ``Sampling``.
        constraints: Special, banned and required tokens. ``TokenConstraints.resolve`` makes them
            from ``method`` and a vocabulary.
        generator: Random generator for sampling; one number is drawn per call (default: the
            global generator of torch).
        keys: For sampling, one number per image. With the same generator state, an image with the
            same key gets the same captions in any batch (default: positions in the batch).
        rerank: Scores hypotheses for a beam search with ``rerank_weight``.

    Returns:
        The hypotheses of each image: finished ones by falling score, then those cut off.

    Raises:
        SearchError: ``method`` is not a search method, the constraints contradict each other or
            the model, or no caption meets them.
    """
    check_method(method)
    if not len(state):
        return []
    rules = TokenRules.build(method, constraints, getattr(state, "device", torch.device("cpu")))
    if isinstance(method, Sampling):
        return sample(step, state, rules, method, generator=generator, keys=keys)
    if not isinstance(method, BeamSearch) or not method.reranks:
        return beam_search(step, state, rules, method)
    if rerank is None:
        raise SearchError(
            f"rerank_weight is {method.rerank_weight:g}, but there is no n-gram reranking. "
            "Set rerank_weight to 0, or pass rerank."
        )
    whole_beam = beam_search(step, state, rules, replace(method, n=method.width))
    return _rerank(whole_beam, method, rerank)


def _rerank(
    hypotheses: list[list[Hypothesis]], method: BeamSearch, rerank: RerankFunction
) -> list[list[Hypothesis]]:
    """Add the weighted rerank scores, and return the best ``method.n`` hypotheses per image."""
    ranked = []
    for image, beam in enumerate(hypotheses):
        values = rerank(image, [hypothesis.tokens for hypothesis in beam])
        scored = [
            replace(hypothesis, score=hypothesis.score + method.rerank_weight * value)
            for hypothesis, value in zip(beam, values, strict=True)
        ]
        ranked.append(sorted(scored, key=lambda h: (not h.finished, -h.score))[: method.n])
    return ranked
