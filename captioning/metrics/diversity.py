"""Diversity of captions, and the shuffled-image baseline."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import numpy as np

from captioning.errors import ScoreError
from captioning.messages import format_count
from captioning.metrics.cider import DocumentFrequency
from captioning.metrics.score_inputs import Candidates, References, normalize_candidates
from captioning.metrics.scores import Scores, score
from captioning.text.tokenizers import TokenizerName, get_tokenizer

UNKNOWN = "<unk>"


@dataclass(frozen=True)
class Diversity:
    """How varied a set of captions is. Shares are between 0 and 1."""

    captions: int
    """Number of captions."""
    distinct: int
    """Number of captions that differ in their words."""
    novel: float | None
    """Share of captions that equal no training caption; None without training captions."""
    vocabulary: int
    """Number of distinct words."""
    mean_length: float
    """Mean number of words."""
    distinct_1: float
    """Distinct words divided by all words."""
    distinct_2: float
    """Distinct word pairs divided by all word pairs."""
    unknown: float
    """Share of words that are ``<unk>``."""
    warnings: tuple[str, ...]
    """Signs of a broken model."""

    def as_dict(self) -> dict[str, object]:
        """Return all fields as plain values, for JSON."""
        return asdict(self)

    def table(self) -> str:
        """Return the fields as a text table."""
        novel = "n/a" if self.novel is None else f"{100 * self.novel:.1f} %"
        lines = [
            f"distinct captions       {self.distinct} of {self.captions}",
            f"not in the train split  {novel}",
            f"vocabulary used         {format_count(self.vocabulary, 'word')}",
            f"mean length             {self.mean_length:.2f} words",
            f"distinct-1, -2          {self.distinct_1:.3f}, {self.distinct_2:.3f}",
            f"unknown words           {100 * self.unknown:.2f} %",
        ]
        return "\n".join(lines + [f"warning: {warning}" for warning in self.warnings])


def measure_diversity(
    candidates: Candidates,
    *,
    training: Iterable[str] | None = None,
    tokenizer: TokenizerName = "ptb",
) -> Diversity:
    """Measure how varied captions are.

    Args:
        candidates: A caption for each image id.
        training: All captions of the training split.
        tokenizer: As for :func:`~captioning.metrics.score`.

    Raises:
        ScoreError: There are no captions.
    """
    candidates = normalize_candidates(candidates)
    if not candidates:
        raise ScoreError("there are no captions to measure. Give one for each image id.")
    tokenize = get_tokenizer(tokenizer).split
    # The tokenizer would split <unk>, so it is replaced by a word of letters.
    captions = [
        tuple("unk" if word == "xxunkxx" else word for word in words)
        for words in (tokenize(c.replace(UNKNOWN, "xxunkxx")) for c in candidates.values())
    ]
    unknown = sum(caption.split().count(UNKNOWN) for caption in candidates.values())
    words = [word for caption in captions for word in caption]
    pairs = [pair for caption in captions for pair in pairwise(caption)]
    known = None if training is None else {tuple(tokenize(caption)) for caption in training}
    return Diversity(
        captions=len(captions),
        distinct=len(set(captions)),
        novel=None if known is None else sum(c not in known for c in captions) / len(captions),
        vocabulary=len(set(words)),
        mean_length=len(words) / len(captions),
        distinct_1=len(set(words)) / max(len(words), 1),
        distinct_2=len(set(pairs)) / max(len(pairs), 1),
        unknown=unknown / max(len(words), 1),
        warnings=_find_warnings(captions, unknown),
    )


def _find_warnings(captions: Sequence[tuple[str, ...]], unknown: int) -> tuple[str, ...]:
    warnings = []
    counts = Counter(captions)
    if len(captions) >= 20 and len(counts) <= len(captions) // 10:
        commonest = " ".join(counts.most_common(1)[0][0])
        warnings.append(
            f"The captions have collapsed: {format_count(len(captions), 'image')} share "
            f"{format_count(len(counts), 'caption')}, most often {commonest!r:.80}. Check that the "
            "images are preprocessed as in training."
        )
    repeating = sum(any(a == b for a, b in pairwise(caption)) for caption in captions)
    if repeating > len(captions) // 10:
        warnings.append(
            f"{repeating:,} of {format_count(len(captions), 'caption')} repeat a word immediately. "
            "Block repeated words in the search (captioning caption --block-repeated-words True), "
            "or train longer."
        )
    if unknown:
        warnings.append(
            f"{UNKNOWN} occurs {format_count(unknown, 'time')} in the captions. Forbid it in the "
            "search."
        )
    return tuple(warnings)


def score_shuffled(
    candidates: Candidates,
    references: References,
    *,
    document_frequency: DocumentFrequency | None = None,
    tokenizer: TokenizerName = "ptb",
    seed: int = 0,
) -> Scores:
    """Return the shuffled-image baseline: each caption is scored as that of another image.

    The baseline of a model that uses the image is far below its score. If both are similar, the
    model produces captions that fit most images.

    Args:
        candidates: A caption for each image id.
        references: One or more captions for each of the same ids.
        document_frequency: As for :func:`~captioning.metrics.score`.
        tokenizer: As for :func:`~captioning.metrics.score`.
        seed: Seed of the shuffle.

    Raises:
        ScoreError: There are fewer than two images, or they cannot be scored.
    """
    candidates = normalize_candidates(candidates)
    if len(candidates) < 2:
        raise ScoreError(
            f"cannot shuffle {format_count(len(candidates), 'image')}. Give at least two images."
        )
    ids = list(candidates)
    order = np.random.default_rng(seed).permutation(len(ids))
    # A rotation of the random order: no image keeps its own caption.
    shuffled = {
        ids[target]: candidates[ids[source]]
        for target, source in zip(order, np.roll(order, 1), strict=True)
    }
    scores = score(shuffled, references, document_frequency=document_frequency, tokenizer=tokenizer)
    return replace(scores, signature=f"{scores.signature}|shuffled:seed{seed}")
