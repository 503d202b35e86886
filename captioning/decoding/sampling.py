"""Sampling: every image draws from its own stream of random numbers."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from captioning.decoding.beam_state import find_leaving
from captioning.decoding.constraints import IMPOSSIBLE, TokenRules
from captioning.decoding.hypothesis import Hypothesis, SearchState, Step
from captioning.decoding.methods import Sampling


def sample(
    step: Step,
    state: SearchState,
    rules: TokenRules,
    method: Sampling,
    *,
    generator: torch.Generator | None = None,
    keys: Int[Tensor, " B"] | None = None,
) -> list[list[Hypothesis]]:
    """Draw ``method.n`` captions per image, as :class:`Sampling` describes.

    One uniform number decides each word. It is a hash of the seed (drawn once per call from
    ``generator``), the key of the image, the sample and the step. So no row depends on another.
    """
    images, n, limit = len(state), method.n, method.max_length
    device = rules.required.device
    keys = torch.arange(images) if keys is None else keys
    rows = _Rows.initial(_seed_streams(keys.to(device), n, generator), rules)
    history = torch.full((len(rows.index), limit + 1), rules.eos, device=device)
    token_log_probs = torch.zeros(len(rows.index), limit + 1, device=device)
    impossible = torch.zeros_like(rows.ended)
    tokens = torch.full((images,), rules.bos, device=device)
    for t in range(limit + 1):
        log_probs, state = step(tokens, state)
        if t == 0:
            first = torch.arange(images, device=device).repeat_interleave(n)
            log_probs = rules.check_log_probs(log_probs, images).index_select(0, first)
            state = state.select(first) if n > 1 else state
        log_probs = log_probs.to(torch.promote_types(log_probs.dtype, torch.float32))
        allowed, stuck = _constrain(log_probs, history[rows.index, :t], rows, rules)
        impossible[rows.index] |= stuck
        ended = rows.ended | stuck
        drawn = _draw(allowed, method, _draw_uniform(rows.streams, t))
        tokens = torch.where(ended, rules.eos, drawn)
        history[rows.index, t] = tokens
        token_log_probs[rows.index, t] = log_probs.gather(1, tokens.unsqueeze(1)).squeeze(1)
        met = rows.met | (tokens.unsqueeze(1) == rules.required)
        rows = replace(rows, met=met, ended=ended | (tokens == rules.eos))
        leaving = find_leaving(rows.ended.view(-1, n).all(1), t)
        if leaving is not None:
            kept = (~leaving).repeat_interleave(n).nonzero().flatten()
            if not len(kept):
                break
            state = state.select(kept, (~leaving).nonzero().flatten())
            rows, tokens = rows.select(kept), tokens[kept]
    if impossible.any():
        raise rules.no_caption_error(int(impossible.nonzero()[0, 0]) // n)
    return _collect(history, token_log_probs, rules.eos, n)


@dataclass(frozen=True)
class _Rows:
    """The rows whose images are still in the batch.

    Attributes:
        index: Index of the row among those of all images.
        streams: Seed of the row's random numbers.
        met: Which required words the row contains.
        ended: Whether its caption is complete.
    """

    index: Int[Tensor, " N"]
    streams: Int[Tensor, " N"]
    met: Bool[Tensor, "N C"]
    ended: Bool[Tensor, " N"]

    @classmethod
    def initial(cls, streams: Int[Tensor, " N"], rules: TokenRules) -> "_Rows":
        """Return the rows before the first word."""
        met = torch.zeros(
            len(streams), len(rules.required), dtype=torch.bool, device=streams.device
        )
        ended = torch.zeros(len(streams), dtype=torch.bool, device=streams.device)
        return cls(torch.arange(len(streams), device=streams.device), streams, met, ended)

    def select(self, kept: Int[Tensor, " M"]) -> "_Rows":
        """Return some of the rows."""
        return _Rows(self.index[kept], self.streams[kept], self.met[kept], self.ended[kept])


def _constrain(
    log_probs: Float[Tensor, "N V"], history: Int[Tensor, "N t"], rows: _Rows, rules: TokenRules
) -> tuple[Float[Tensor, "N V"], Bool[Tensor, " N"]]:
    """Return the log-probabilities of allowed words, and which rows no word may continue."""
    allowed = rules.apply_(log_probs.clone(), history)
    if len(rules.required):
        allowed = _require(allowed, rows.met, rules, history.shape[1])
    stuck = (allowed.amax(1) == IMPOSSIBLE) & ~rows.ended
    # An ended row draws a word that is not used; its scores must still be a distribution.
    return allowed.masked_fill((rows.ended | stuck).unsqueeze(1), 0.0), stuck


def _require(
    allowed: Float[Tensor, "N V"], met: Bool[Tensor, "N C"], rules: TokenRules, t: int
) -> Float[Tensor, "N V"]:
    """Give the probability of ``<eos>`` to the required words that are missing.

    Missing words share it in proportion to their own probabilities. If there are only enough steps
    left for them, no other word is allowed.
    """
    missing = allowed[:, rules.required].masked_fill(met, IMPOSSIBLE)
    incomplete = ~met.all(1, keepdim=True)
    total = missing.logsumexp(1, keepdim=True)
    eos = allowed[:, rules.eos].unsqueeze(1)
    share = torch.where(incomplete & (total > IMPOSSIBLE), eos + missing - total, IMPOSSIBLE)
    steps_left = rules.method.max_length - t
    forced = ((~met).sum(1, keepdim=True) >= steps_left) & incomplete
    words = torch.logaddexp(allowed[:, rules.required], share)
    others = allowed.masked_fill(forced, IMPOSSIBLE)
    others[:, rules.eos] = allowed[:, rules.eos].masked_fill(incomplete.squeeze(1), IMPOSSIBLE)
    return others.index_copy(1, rules.required, torch.where(forced, missing, words))


def _draw(
    log_probs: Float[Tensor, "N V"], method: Sampling, uniform: Float[Tensor, " N"]
) -> Int[Tensor, " N"]:
    """Draw one word per row: the first whose cumulative probability exceeds ``uniform``."""
    scaled = log_probs / method.temperature
    words = None
    if 0 < method.top_k < scaled.shape[1]:
        scaled, words = scaled.topk(method.top_k, 1)
    probs = scaled.softmax(1)
    if method.top_p < 1:
        if words is None:
            probs, words = _sort_by_probability(probs, method.top_p)
        # A word is kept if the words before it do not have the share ``top_p`` yet.
        kept = probs.cumsum(1) - probs < method.top_p
        kept[:, 0] = True  # also if top_p is too small for 32 bits
        probs = probs * kept
    cumulative = probs.cumsum(1)
    threshold = uniform.to(probs.dtype).unsqueeze(1) * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, threshold, right=True)
    return (index if words is None else words.gather(1, index)).squeeze(1)


def _sort_by_probability(
    probs: Float[Tensor, "N V"], share: float
) -> tuple[Float[Tensor, "N M"], Int[Tensor, "N M"]]:
    """Return words by falling probability that have at least ``share`` of it in each row.

    The first 128 words nearly always do, and finding them is much faster than sorting all.
    """
    if probs.device.type == "cpu":  # on a GPU, reading the condition would wait for the device
        top, words = probs.topk(min(128, probs.shape[1]), 1)
        if (top.sum(1) > share + 1e-4).all():
            return top, words
    return probs.sort(dim=1, descending=True, stable=True)


def _collect(
    history: Int[Tensor, "N L"], token_log_probs: Float[Tensor, "N L"], eos: int, n: int
) -> list[list[Hypothesis]]:
    """Return the ``n`` captions of each image, the most probable first."""
    limit = history.shape[1] - 1
    ends = (history == eos).int()
    finished = ends.any(1)
    length = torch.where(finished, ends.argmax(1), limit)
    count = length + finished  # the last token of an unfinished caption is beyond max_length
    positions = torch.arange(limit + 1, device=history.device)
    total = token_log_probs.masked_fill(positions >= count.unsqueeze(1), 0.0).sum(1)
    columns = (finished, length, total, history, token_log_probs)
    captions = [
        Hypothesis(tuple(tokens[:size]), score, score, ended, tuple(parts[: size + ended]))
        for ended, size, score, tokens, parts in zip(*(x.tolist() for x in columns), strict=True)
    ]
    return [
        sorted(captions[start : start + n], key=lambda h: -h.score)
        for start in range(0, len(captions), n)
    ]


# --- counter-based random numbers -------------------------------------------------------------


def _seed_streams(
    keys: Int[Tensor, " B"], n: int, generator: torch.Generator | None
) -> Int[Tensor, " N"]:
    """Return the seed of each row's stream."""
    device = "cpu" if generator is None else generator.device
    seed = torch.randint(2**62, (), generator=generator, device=device).to(keys.device)
    image = _mix(_mix(seed) + keys)
    return _mix(image.unsqueeze(1) + torch.arange(n, device=keys.device)).flatten()


def _draw_uniform(streams: Int[Tensor, " N"], t: int) -> Float[Tensor, " N"]:
    """Return one number in [0, 1) per row.

    It has 23 bits, so its product with a sum near one stays below the sum in 32-bit floats.
    """
    return ((_mix(streams + t) >> 41) & (2**23 - 1)).float() / 2**23


def _mix(x: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Hash 64-bit integers (SplitMix64, Steele, Lea & Flood 2014); products wrap around."""
    x = x - 0x61C8864680B583EB  # + 0x9E3779B97F4A7C15 modulo 2**64
    x = (x ^ _shift_right(x, 30)) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
    x = (x ^ _shift_right(x, 27)) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
    return x ^ _shift_right(x, 31)


def _shift_right(x: Int[Tensor, "*shape"], bits: int) -> Int[Tensor, "*shape"]:
    """Shift right and fill with zeros; torch fills negative numbers with ones."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
