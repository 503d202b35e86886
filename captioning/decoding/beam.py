"""Greedy search, beam search, diverse beam search and grid beam search: one loop over time.

Every tensor has the same leading sizes: B images, G groups (of diverse beam search), K banks (bank
k holds hypotheses that have met k of the C required words, so K = C + 1) and W hypotheses in each.
Plain beam search is G = K = 1, greedy search W = 1 besides.
"""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from captioning.decoding.hypothesis import Hypothesis, SearchState, Step
from captioning.decoding.rules import NEVER, Rules


@dataclass(frozen=True)
class Beams:
    """The shape of a beam search: see ``BeamSearch`` and ``DiverseBeamSearch``."""

    width: int
    n: int = 1
    length_penalty: float = 0.0
    groups: int = 1
    strength: float = 0.0


@dataclass(frozen=True)
class Live:
    """The unfinished hypotheses; those of log-probability minus infinity are empty places.

    Attributes:
        log_prob: Sum over the words so far.
        met: Which required words each holds.
        tokens: The words so far, in the first t of as many places as there can be tokens.
        token_log_probs: The log-probability of each.
    """

    log_prob: Float[Tensor, "B G K W"]
    met: Bool[Tensor, "B G K W C"]
    tokens: Int[Tensor, "B G K W L"]
    token_log_probs: Float[Tensor, "B G K W L"]

    @classmethod
    def empty(cls, images: int, rules: Rules, beams: Beams, device: torch.device) -> "Live":
        """Return the empty caption, once in each group's bank of nothing met."""
        C, L = len(rules.required), rules.how.max_length + 1
        shape = (images, beams.groups, C + 1, beams.width)
        log_prob = torch.full(shape, NEVER, device=device)
        log_prob[:, :, 0, 0] = 0.0
        return cls(
            log_prob,
            torch.zeros(*shape, C, dtype=torch.bool, device=device),
            torch.full((*shape, L), rules.eos, device=device),
            torch.zeros(*shape, L, device=device),
        )


@dataclass(frozen=True)
class Finished:
    """The best finished hypotheses so far, best first; score minus infinity is an empty place."""

    score: Float[Tensor, "B G n"]
    log_prob: Float[Tensor, "B G n"]
    length: Int[Tensor, "B G n"]
    tokens: Int[Tensor, "B G n L"]
    token_log_probs: Float[Tensor, "B G n L"]

    @classmethod
    def empty(cls, live: Live, n: int) -> "Finished":
        """Return ``n`` empty places for each group."""
        images, groups, _, _, longest = live.tokens.shape
        none = live.log_prob.new_full((images, groups, n), NEVER)
        tokens = live.tokens.new_zeros(images, groups, n, longest)
        return cls(none, none, torch.zeros_like(none, dtype=torch.long), tokens, tokens.float())

    def best(self, others: "Finished") -> "Finished":
        """Return the best of both, as many as there are places."""
        both = Finished(
            *(
                torch.cat([getattr(self, part.name), getattr(others, part.name)], 2)
                for part in fields(self)
            )
        )
        score, place = both.score.topk(self.score.shape[2], 2)
        return Finished(
            score,
            both.log_prob.gather(2, place),
            both.length.gather(2, place),
            _take(both.tokens, place),
            _take(both.token_log_probs, place),
        )


def beam_search(
    step: Step, state: SearchState, rules: Rules, beams: Beams
) -> list[list[Hypothesis]]:
    """Search as ``BeamSearch`` and ``DiverseBeamSearch`` say.

    An image is done when its finished hypotheses are as many as asked for and no unfinished one can
    still score higher: log-probabilities only fall, so the highest score that a hypothesis can
    reach is its log-probability now over the greatest length.
    """
    images, device = len(state), rules.required.device
    live = Live.empty(images, rules, beams, device)
    finished = Finished.empty(live, beams.n)
    tokens = torch.full((images,), rules.bos, device=device)
    done = torch.zeros(images, beams.groups, dtype=torch.bool, device=device)
    limit = rules.how.max_length
    for t in range(limit + 1):
        log_probs, state = step(tokens, state)
        if t == 0:
            rules.check(log_probs, images)
        log_probs = _by_hypothesis(log_probs, live)
        scores = _scores(log_probs, live, rules, t)
        ends = scores[:, :, -1, :, rules.eos].clone()
        scores[..., rules.eos] = NEVER
        extended, parents = _extend(scores, log_probs, live, rules, beams, t=t)
        # A caption ends only if that is among the best things that could be done next.
        rivals = torch.cat([ends, extended.log_prob[:, :, -1]], 2)
        worst = rivals.topk(beams.width, 2).values[..., -1:]
        ends = ends.masked_fill((ends < worst) | done.unsqueeze(2), NEVER)
        eos_log_prob = log_probs[:, :, -1, :, rules.eos]
        finished = finished.best(_finish(ends, live, beams, t, eos_log_prob))
        reach = extended.log_prob.amax((2, 3)) / (limit + 1) ** beams.length_penalty
        done = done | (finished.score[..., -1] >= reach)
        if t == limit or done.all():
            break
        live = extended
        tokens = live.tokens[..., t].flatten()
        if t == 0 or len(tokens) > images:
            state = state.select(parents)
    return _hypotheses(finished, live, done, rules, beams, t=t)


def _by_hypothesis(log_probs: Tensor, live: Live) -> Float[Tensor, "B G K W V"]:
    """Shape the rows of a step; the first step has one row for all hypotheses of an image."""
    B, G, K, W = live.log_prob.shape
    if log_probs.dtype in (torch.float16, torch.bfloat16):
        log_probs = log_probs.float()  # a sum of many would lose what tells hypotheses apart
    if len(log_probs) == B:
        return log_probs.view(B, 1, 1, 1, -1).expand(B, G, K, W, -1)
    return log_probs.view(B, G, K, W, -1)


def _scores(
    log_probs: Float[Tensor, "B G K W V"], live: Live, rules: Rules, t: int
) -> Float[Tensor, "B G K W V"]:
    """Return the log-probability of every continuation, minus infinity where it may not be."""
    scores = log_probs + live.log_prob.unsqueeze(4)
    V, L = scores.shape[4], live.tokens.shape[4]
    rules.apply_(scores.view(-1, V), live.tokens.view(-1, L)[:, :t])
    return scores


def _extend(
    scores: Float[Tensor, "B G K W V"],
    log_probs: Float[Tensor, "B G K W V"],
    live: Live,
    rules: Rules,
    beams: Beams,
    *,
    t: int,
) -> tuple[Live, Int[Tensor, " N"]]:
    """Return the hypotheses of one more word, and for each the row that it continues."""
    B, G, K, W, V = scores.shape
    # Groups avoid the words of those before them, so each has to wait for those.
    chosen: list[tuple[Tensor, Tensor]] = []
    used = torch.zeros(B, 1, 1, V, device=scores.device) if G > 1 else None
    for group in range(G):
        ranked = scores[:, group] if used is None else scores[:, group] - beams.strength * used
        value, place = _choose(ranked, live.met[:, group], rules)
        chosen.append((value > NEVER, place))
        if used is not None:
            real = (value > NEVER).flatten(1).to(used.dtype)
            used.view(B, V).scatter_add_(1, place.flatten(1) % V, real)
    real, place = (torch.stack(each, 1).view(B, G, K * W) for each in zip(*chosen, strict=True))
    parent, token = place // V, place % V
    log_prob = scores.view(B, G, -1).gather(2, place)
    log_prob = log_prob.masked_fill(~real, NEVER).view(B, G, K, W)
    gained = log_probs.reshape(B, G, -1).gather(2, place).view(B, G, K, W)
    history = _take(live.tokens.flatten(2, 3), parent)
    history[..., t] = token
    past = _take(live.token_log_probs.flatten(2, 3), parent).view(B, G, K, W, -1)
    past[..., t] = gained
    met = _take(live.met.flatten(2, 3), parent) | (token.unsqueeze(3) == rules.required)
    if t == 0:
        rows = torch.arange(B, device=scores.device).view(B, 1, 1).expand_as(parent)
    else:
        rows = torch.arange(B * G, device=scores.device).view(B, G, 1) * (K * W) + parent
    return (
        Live(log_prob, met.view(B, G, K, W, -1), history.view(B, G, K, W, -1), past),
        rows.flatten(),
    )


def _choose(
    ranked: Float[Tensor, "B K W V"], met: Bool[Tensor, "B K W C"], rules: Rules
) -> tuple[Float[Tensor, "B K W"], Int[Tensor, "B K W"]]:
    """Return each bank's best continuations: their rank, and where they are in ``ranked``.

    Places count over K, W and V. Where a bank has fewer continuations than places, the rest have
    the rank minus infinity and lie anywhere.
    """
    B, K, W, V = ranked.shape
    bank = torch.arange(K, device=ranked.device).view(K, 1) * (W * V)
    if K == 1:
        best = ranked.flatten(2).topk(W, 2)
        return best.values, best.indices
    # A word that is required and lacking leads to the next bank; every other word stays.
    C = len(rules.required)
    words = ranked[..., rules.required]
    staying = ranked.index_copy(3, rules.required, words.masked_fill(~met, NEVER))
    stay, stay_place = staying.flatten(2).topk(W, 2)
    rise = words.masked_fill(met, NEVER)[:, :-1].flatten(2)
    rise = torch.cat([rise.new_full((B, 1, W * C), NEVER), rise], 1)
    origin = torch.arange(W, device=ranked.device).view(W, 1) * V + rules.required
    rise_place = (bank - W * V).clamp_min(0) + origin.flatten()
    places = torch.cat([stay_place + bank, rise_place.expand(B, K, W * C)], 2)
    best = torch.cat([stay, rise], 2).topk(W, 2)
    return best.values, places.gather(2, best.indices)


def _finish(
    log_prob: Float[Tensor, "B G W"],
    live: Live,
    beams: Beams,
    t: int,
    eos_log_prob: Float[Tensor, "B G W"] | None = None,
) -> Finished:
    """Return the hypotheses of t words that end here, or that are cut where no ``<eos>`` comes."""
    token_log_probs = live.token_log_probs[:, :, -1]
    if eos_log_prob is not None:
        token_log_probs = token_log_probs.clone()
        token_log_probs[..., t] = eos_log_prob
    count = t if eos_log_prob is None else t + 1
    return Finished(
        log_prob / count**beams.length_penalty,
        log_prob,
        torch.full_like(log_prob, t, dtype=torch.long),
        live.tokens[:, :, -1],
        token_log_probs,
    )


def _listed(source: Finished, ended: bool) -> list[list[list[Hypothesis]]]:
    """Return the hypotheses of each image and group, without the empty places."""
    scores, log_probs, lengths, tokens, parts = (
        getattr(source, part.name).tolist() for part in fields(source)
    )
    return [
        [
            [
                Hypothesis(tuple(words[:size]), log_prob, score, ended, tuple(each[: size + ended]))
                for score, log_prob, size, words, each in zip(*row, strict=True)
                if score > NEVER
            ]
            for row in zip(*image, strict=True)
        ]
        for image in zip(scores, log_probs, lengths, tokens, parts, strict=True)
    ]


def _take(source: Tensor, place: Int[Tensor, "B G M"]) -> Tensor:
    """Return the hypotheses at ``place`` of ``source``, whose last dimension goes along."""
    return source.gather(2, place.unsqueeze(3).expand(*place.shape, source.shape[3]))


def _hypotheses(
    finished: Finished,
    live: Live,
    done: Bool[Tensor, "B G"],
    rules: Rules,
    beams: Beams,
    *,
    t: int,
) -> list[list[Hypothesis]]:
    """Return what was found; cut captions fill the places that finished ones left empty."""
    ends = _finish(live.log_prob[:, :, -1].masked_fill(done.unsqueeze(2), NEVER), live, beams, t)
    found = []
    for image, groups in enumerate(zip(_listed(finished, True), _listed(ends, False), strict=True)):
        best = [
            hypothesis
            for ended, cut in zip(*groups, strict=True)
            for hypothesis in [*ended, *sorted(cut, key=lambda h: -h.score)][: beams.n]
        ]
        if not best:
            raise rules.nothing_found(image)
        found.append(sorted(best, key=lambda h: (not h.finished, -h.score)))
    return found
