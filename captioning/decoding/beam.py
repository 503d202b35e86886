"""Greedy search, beam search, diverse beam search and grid beam search: one loop over time.

:mod:`captioning.decoding.beam_state` explains the letters of the shapes.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from captioning.decoding.beam_state import (
    ActiveHypotheses,
    BeamConfig,
    FinishedHypotheses,
    find_leaving,
    gather_slots,
)
from captioning.decoding.constraints import IMPOSSIBLE, TokenRules
from captioning.decoding.hypothesis import Hypothesis, SearchState, Step
from captioning.decoding.methods import SearchMethod


def beam_search(
    step: Step, state: SearchState, rules: TokenRules, method: SearchMethod
) -> list[list[Hypothesis]]:
    """Run the search that ``Greedy``, ``BeamSearch`` or ``DiverseBeamSearch`` describes.

    A group of an image is done when it has ``n`` finished hypotheses and no active one can still
    score higher. Log-probabilities only fall, so the best score that a hypothesis can reach is its
    present log-probability, normalized by the maximum length. Images that are done leave the batch.
    """
    images, config, limit = len(state), BeamConfig.from_method(method), method.max_length
    active = ActiveHypotheses.initial(images, rules, config)
    finished = FinishedHypotheses.empty(active, config.n)
    tokens = torch.full((images,), rules.bos, device=rules.required.device)
    done = torch.zeros_like(active.log_prob[:, :, 0, 0], dtype=torch.bool)
    batch = torch.arange(images, device=rules.required.device)
    results: dict[int, list[Hypothesis]] = {}
    for t in range(limit + 1):
        log_probs, state = step(tokens, state)
        if t == 0:
            rules.check_log_probs(log_probs, images)
        log_probs = active.by_hypothesis(log_probs)
        scores = active.scores(log_probs, rules, t)
        end_scores = scores[:, :, -1, :, rules.eos].clone()
        scores[..., rules.eos] = IMPOSSIBLE
        extended, parents = _extend(scores, log_probs, active, rules, config, t=t)
        end_scores = _exclude_weak_ends(end_scores, extended, config)
        end_scores = end_scores.masked_fill(done[..., None], IMPOSSIBLE)
        eos_log_prob = log_probs[:, :, -1, :, rules.eos]
        finished = finished.merge(
            FinishedHypotheses.from_active(end_scores, active, config, t, eos_log_prob)
        )
        bound = extended.log_prob.amax((2, 3)) / (limit + 1) ** config.length_penalty
        done = done | (finished.score[..., -1] >= bound)
        leaving = find_leaving(done.all(1), t)
        if t == limit or (leaving is not None and leaving.all()):
            break
        active, kept = extended, None
        if leaving is not None:
            gone, kept = leaving.nonzero().flatten(), (~leaving).nonzero().flatten()
            results |= _collect(batch[gone], finished.select(gone), None, rules)
            active, finished, done = active.select(kept), finished.select(kept), done[kept]
            batch, parents = batch[kept], parents.view(len(leaving), -1)[kept].flatten()
        tokens = active.tokens[..., t].flatten()
        if t == 0 or kept is not None or len(tokens) > len(batch):
            state = state.select(parents, kept)
    cut = active.log_prob[:, :, -1].masked_fill(done[..., None], IMPOSSIBLE)
    unfinished = FinishedHypotheses.from_active(cut, active, config, t)
    results |= _collect(batch, finished, unfinished, rules)
    return [results[image] for image in range(images)]


def _extend(
    scores: Float[Tensor, "B G K W V"],
    log_probs: Float[Tensor, "B G K W V"],
    active: ActiveHypotheses,
    rules: TokenRules,
    config: BeamConfig,
    *,
    t: int,
) -> tuple[ActiveHypotheses, Int[Tensor, " N"]]:
    """Return the hypotheses with one more word, and the state row that each one extends."""
    B, G, K, W, V = scores.shape
    allowed, index = _choose_groups(scores, active.met, rules, config.diversity_penalty)
    parent, token = index // V, index % V
    log_prob = gather_slots(scores.view(B, G, -1), index)
    log_prob = log_prob.masked_fill(~allowed, IMPOSSIBLE).view(B, G, K, W)
    tokens = gather_slots(active.tokens.flatten(2, 3), parent)
    tokens[..., t] = token
    token_log_probs = gather_slots(active.token_log_probs.flatten(2, 3), parent)
    token_log_probs[..., t] = gather_slots(log_probs.reshape(B, G, -1), index)
    met = gather_slots(active.met.flatten(2, 3), parent) | (token.unsqueeze(3) == rules.required)
    if t == 0:
        rows = torch.arange(B, device=scores.device).view(B, 1, 1).expand_as(parent)
    else:
        rows = torch.arange(B * G, device=scores.device).view(B, G, 1) * (K * W) + parent
    extended = ActiveHypotheses(
        log_prob,
        met.view(B, G, K, W, -1),
        tokens.view(B, G, K, W, -1),
        token_log_probs.view(B, G, K, W, -1),
    )
    return extended, rows.flatten()


def _exclude_weak_ends(
    end_scores: Float[Tensor, "B G W"], extended: ActiveHypotheses, config: BeamConfig
) -> Float[Tensor, "B G W"]:
    """Return ``end_scores``, with minus infinity for hypotheses that may not end now.

    A hypothesis ends only if its extension by <eos> is among the best ``width`` of its group.
    """
    candidates = torch.cat([end_scores, extended.log_prob[:, :, -1]], 2)
    worst = candidates.topk(config.width, 2).values[..., -1:]
    return end_scores.masked_fill(end_scores < worst, IMPOSSIBLE)


def _choose_groups(
    scores: Float[Tensor, "B G K W V"],
    met: Bool[Tensor, "B G K W C"],
    rules: TokenRules,
    diversity_penalty: float,
) -> tuple[Bool[Tensor, "B G M"], Int[Tensor, "B G M"]]:
    """Choose the extensions of each group; later groups avoid the words of earlier ones.

    Returns:
        For each of the M = K * W slots of a group whether it has an extension, and the index of
        the extension over K, W and V.
    """
    B, G, _, _, V = scores.shape
    allowed, indices = [], []
    counts = torch.zeros(B, 1, 1, V, device=scores.device)
    for group in range(G):
        ranked = scores[:, group] if G == 1 else scores[:, group] - diversity_penalty * counts
        values, index = _choose(ranked, met[:, group], rules)
        allowed.append((values > IMPOSSIBLE).flatten(1))
        indices.append(index.flatten(1))
        if G > 1:
            counts.view(B, V).scatter_add_(1, indices[-1] % V, allowed[-1].to(counts.dtype))
    return torch.stack(allowed, 1), torch.stack(indices, 1)


def _choose(
    ranked: Float[Tensor, "B K W V"], met: Bool[Tensor, "B K W C"], rules: TokenRules
) -> tuple[Float[Tensor, "B K W"], Int[Tensor, "B K W"]]:
    """Return the score of each bank's best extensions, and their index over K, W and V.

    Bank k holds the hypotheses that contain k of the required words.

    If a bank has fewer extensions than slots, the other slots have score minus infinity and an
    arbitrary index.
    """
    B, K, W, V = ranked.shape
    if K == 1:
        best = ranked.flatten(2).topk(W, 2)
        return best.values, best.indices
    # A missing required word leads to the next bank; every other word stays in its bank.
    C = len(rules.required)
    required = ranked[..., rules.required]
    staying = ranked.index_copy(3, rules.required, required.masked_fill(~met, IMPOSSIBLE))
    stay, stay_index = staying.flatten(2).topk(W, 2)
    rise = required.masked_fill(met, IMPOSSIBLE)[:, :-1].flatten(2)
    rise = torch.cat([rise.new_full((B, 1, W * C), IMPOSSIBLE), rise], 1)
    bank = torch.arange(K, device=ranked.device).view(K, 1) * (W * V)
    origin = torch.arange(W, device=ranked.device).view(W, 1) * V + rules.required
    rise_index = (bank - W * V).clamp_min(0) + origin.flatten()
    indices = torch.cat([stay_index + bank, rise_index.expand(B, K, W * C)], 2)
    best = torch.cat([stay, rise], 2).topk(W, 2)
    return best.values, indices.gather(2, best.indices)


def _collect(
    images: Int[Tensor, " B"],
    finished: FinishedHypotheses,
    unfinished: FinishedHypotheses | None,
    rules: TokenRules,
) -> dict[int, list[Hypothesis]]:
    """Return up to ``n`` hypotheses per group; unfinished ones fill slots that are left.

    Args:
        images: Index of each image in the original batch.
        finished: Finished hypotheses.
        unfinished: Hypotheses that were cut off; None if there are none.
        rules: Source of the error for an image without hypotheses.
    """
    ended, n = finished.to_lists(finished=True), finished.score.shape[2]
    cut: list[list[list[Hypothesis]]] = [[[] for _ in groups] for groups in ended]
    if unfinished is not None:
        cut = unfinished.to_lists(finished=False)
    collected = {}
    for image, *groups in zip(images.tolist(), ended, cut, strict=True):
        best = [
            hypothesis
            for first, others in zip(*groups, strict=True)
            for hypothesis in [*first, *sorted(others, key=lambda h: -h.score)][:n]
        ]
        if not best:
            raise rules.no_caption_error(image)
        collected[image] = sorted(best, key=lambda h: (not h.finished, -h.score))
    return collected
