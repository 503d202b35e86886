"""Sampling: each image draws from a stream of chance of its own."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from captioning.decoding.hypothesis import Hypothesis, SearchState, Step
from captioning.decoding.methods import Sampling
from captioning.decoding.rules import NEVER, Rules


def sample(
    step: Step,
    state: SearchState,
    rules: Rules,
    how: Sampling,
    *,
    generator: torch.Generator | None = None,
    keys: Int[Tensor, " B"] | None = None,
) -> list[list[Hypothesis]]:
    """Draw ``how.n`` captions for each image, as :class:`Sampling` says.

    One uniform number decides each word. It is a hash of the seed (drawn once per call from
    ``generator``), the image's key, the sample and the step: no row's chance depends on another's.
    """
    images, device, limit = len(state), rules.required.device, how.max_length
    if keys is None:
        keys = torch.arange(images, device=device)
    stream = _streams(keys.to(device), how.n, generator)
    rows = torch.arange(images, device=device).repeat_interleave(how.n)
    tokens = torch.full((images,), rules.bos, device=device)
    history = torch.full((len(rows), limit + 1), rules.eos, device=device)
    log_prob = torch.zeros(len(rows), limit + 1, device=device)
    met = torch.zeros(len(rows), len(how.required_words), dtype=torch.bool, device=device)
    ended = torch.zeros(len(rows), dtype=torch.bool, device=device)
    for t in range(limit + 1):
        log_probs, state = step(tokens, state)
        if t == 0:
            log_probs = rules.check(log_probs, images).index_select(0, rows)
            state = state.select(rows) if how.n > 1 else state
        log_probs = log_probs.to(torch.promote_types(log_probs.dtype, torch.float32))
        allowed = rules.apply_(log_probs.clone(), history[:, :t])
        if how.required_words:
            allowed = _require(allowed, met, rules, t)
        dead = (allowed.amax(1) == NEVER) & ~ended
        if dead.any():
            raise rules.nothing_found(int(dead.nonzero()[0, 0]) // how.n)
        # An ended row draws a word that nobody looks at, from whatever is a distribution.
        allowed.masked_fill_(ended.unsqueeze(1), 0.0)
        tokens = _draw(allowed, how, _uniform(stream, t))
        tokens = torch.where(ended, rules.eos, tokens)
        history[:, t] = tokens
        log_prob[:, t] = log_probs.gather(1, tokens.unsqueeze(1)).squeeze(1)
        met |= tokens.unsqueeze(1) == rules.required
        ended = ended | (tokens == rules.eos)
        if ended.all():
            break
    return _hypotheses(history, log_prob, rules.eos, limit, how.n)


def _require(
    allowed: Float[Tensor, "N V"], met: Bool[Tensor, "N C"], rules: Rules, t: int
) -> Float[Tensor, "N V"]:
    """Give the probability of ending too soon to the required words that are still lacking.

    Lacking words share it in proportion to their own probabilities. Where there is just room for
    them, nothing else is allowed.
    """
    lacking = allowed[:, rules.required].masked_fill(met, NEVER)
    some = ~met.all(1, keepdim=True)
    total = lacking.logsumexp(1, keepdim=True)
    eos = allowed[:, rules.eos].unsqueeze(1)
    share = torch.where(some & (total > NEVER), eos + lacking - total, NEVER)
    forced = ((~met).sum(1, keepdim=True) >= rules.how.max_length - t) & some
    words = torch.logaddexp(allowed[:, rules.required], share)
    others = allowed.masked_fill(forced, NEVER)
    others[:, rules.eos] = allowed[:, rules.eos].masked_fill(some.squeeze(1), NEVER)
    return others.index_copy(1, rules.required, torch.where(forced, lacking, words))


def _draw(
    log_probs: Float[Tensor, "N V"], how: Sampling, uniform: Float[Tensor, " N"]
) -> Int[Tensor, " N"]:
    """Draw one word per row: the first whose cumulated probability exceeds ``uniform``."""
    scaled = log_probs / how.temperature
    words = None
    if 0 < how.top_k < scaled.shape[1]:
        scaled, words = scaled.topk(how.top_k, 1)
    probs = scaled.softmax(1)
    if how.top_p < 1:
        if words is None:
            probs, words = _by_probability(probs, how.top_p)
        # A word stays if those before it do not yet have the share of probability wanted.
        stays = probs.cumsum(1) - probs < how.top_p
        stays[:, 0] = True  # also where the share is too small a number for 32 bits
        probs = probs * stays
    cumulated = probs.cumsum(1)
    threshold = uniform.to(probs.dtype).unsqueeze(1) * cumulated[:, -1:]
    place = torch.searchsorted(cumulated, threshold, right=True)
    return (place if words is None else words.gather(1, place)).squeeze(1)


def _by_probability(
    probs: Float[Tensor, "N V"], share: float
) -> tuple[Float[Tensor, "N M"], Int[Tensor, "N M"]]:
    """Return the most probable words by falling probability, at least ``share`` of it in each row.

    The few first words nearly always have it, and are found far sooner than all are sorted.
    """
    few, words = probs.topk(min(128, probs.shape[1]), 1)
    if (few.sum(1) > share + 1e-4).all():
        return few, words
    return probs.sort(dim=1, descending=True, stable=True)


# --- counter-based random numbers -------------------------------------------------------------


def _streams(
    keys: Int[Tensor, " B"], n: int, generator: torch.Generator | None
) -> Int[Tensor, " N"]:
    """Return the seed of each row's own stream."""
    device = "cpu" if generator is None else generator.device
    seed = torch.randint(2**62, (), generator=generator, device=device).to(keys.device)
    image = _mix(_mix(seed) + keys)
    return _mix(image.unsqueeze(1) + torch.arange(n, device=keys.device)).flatten()


def _uniform(stream: Int[Tensor, " N"], t: int) -> Float[Tensor, " N"]:
    """Return one number in [0, 1) per row.

    It has 23 bits: its product with a sum near one, rounded to 32-bit numbers, stays below the sum.
    """
    return ((_mix(stream + t) >> 41) & (2**23 - 1)).float() / 2**23


def _mix(x: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Scramble 64 bits (SplitMix64, Steele, Lea & Flood 2014); products wrap around."""
    x = x - 0x61C8864680B583EB  # + 0x9E3779B97F4A7C15 modulo 2**64
    x = (x ^ _shift(x, 30)) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
    x = (x ^ _shift(x, 27)) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
    return x ^ _shift(x, 31)


def _shift(x: Int[Tensor, "*shape"], bits: int) -> Int[Tensor, "*shape"]:
    """Shift right and fill with zeros: torch's own shift of a negative number fills with ones."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _hypotheses(
    history: Int[Tensor, "N L"], log_prob: Float[Tensor, "N L"], eos: int, limit: int, n: int
) -> list[list[Hypothesis]]:
    """Return the drawn captions of each image, the most probable first."""
    ends = (history == eos).int()
    finished = ends.any(1)
    length = torch.where(finished, ends.argmax(1), limit)
    count = length + finished  # a cut caption's last draw was one word too many
    places = torch.arange(limit + 1, device=history.device)
    total = log_prob.masked_fill(places >= count.unsqueeze(1), 0.0).sum(1)
    columns = (finished, length, total, history, log_prob)
    drawn = [
        Hypothesis(tuple(words[:size]), score, score, whole, tuple(each[: size + whole]))
        for whole, size, score, words, each in zip(*(x.tolist() for x in columns), strict=True)
    ]
    return [
        sorted(drawn[start : start + n], key=lambda h: -h.score)
        for start in range(0, len(drawn), n)
    ]
