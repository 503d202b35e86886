"""Does the model say different things, and does it look at the image?"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import numpy as np

from captioning.errors import ScoreError
from captioning.messages import format_count
from captioning.metrics.cider import DocumentFrequency
from captioning.metrics.inputs import Candidates, References, as_candidates
from captioning.metrics.scores import Scores, score
from captioning.text.tokenizer import tokenize

UNKNOWN = "<unk>"


@dataclass(frozen=True)
class Diversity:
    """How varied the captions of a set are. Shares lie between 0 and 1."""

    captions: int
    distinct: int
    """Captions that differ in their words."""
    novel: float | None
    """Share of captions that no training caption equals word for word; None without those."""
    vocabulary: int
    """Words used."""
    mean_length: float
    """In words."""
    distinct_1: float
    """Distinct words as a share of all words."""
    distinct_2: float
    """Distinct pairs of neighbouring words as a share of all such pairs."""
    unknown: float
    """Share of words that are ``<unk>``."""
    warnings: tuple[str, ...]
    """What looks wrong, in plain words."""

    def as_dict(self) -> dict[str, object]:
        """Return all as plain values, for JSON."""
        return asdict(self) | {"warnings": list(self.warnings)}

    def table(self) -> str:
        """Return the figures as a table to read."""
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


def diversity(candidates: Candidates, *, training: Iterable[str] | None = None) -> Diversity:
    """Measure how varied captions are.

    Args:
        candidates: A caption for each image id.
        training: All captions that the model was trained on.

    Raises:
        ScoreError: There is no caption.
    """
    candidates = as_candidates(candidates)
    if not candidates:
        raise ScoreError("There are no captions to measure. Give one for each image id.")
    # A tokenizer would tear <unk> apart; it is held together by a letter word.
    captions = [
        tuple("unk" if word == "xxunkxx" else word for word in words)
        for words in (tokenize(c.replace(UNKNOWN, "xxunkxx")) for c in candidates.values())
    ]
    unknown = sum(caption.split().count(UNKNOWN) for caption in candidates.values())
    words = [word for caption in captions for word in caption]
    pairs = [pair for caption in captions for pair in pairwise(caption)]
    seen = None if training is None else {tuple(tokenize(caption)) for caption in training}
    distinct = set(captions)
    return Diversity(
        captions=len(captions),
        distinct=len(distinct),
        novel=None if seen is None else sum(c not in seen for c in captions) / len(captions),
        vocabulary=len(set(words)),
        mean_length=len(words) / len(captions),
        distinct_1=len(set(words)) / max(len(words), 1),
        distinct_2=len(set(pairs)) / max(len(pairs), 1),
        unknown=unknown / max(len(words), 1),
        warnings=_warnings(captions, distinct, unknown),
    )


def _warnings(
    captions: Sequence[tuple[str, ...]], distinct: set[tuple[str, ...]], unknown: int
) -> tuple[str, ...]:
    warnings = []
    commonest = max(distinct, key=captions.count) if len(distinct) <= len(captions) // 10 else ()
    if len(captions) >= 20 and len(distinct) <= len(captions) // 10:
        warnings.append(
            f"The captions have collapsed: {format_count(len(captions), 'image')} share "
            f"{format_count(len(distinct), 'caption')}, most often {' '.join(commonest)!r}. "
            "Does the model see the images as it saw them in training?"
        )
    repeating = sum(any(a == b for a, b in pairwise(caption)) for caption in captions)
    if repeating > len(captions) // 10:
        warnings.append(
            f"A word is repeated at once in {repeating:,} of "
            f"{format_count(len(captions), 'caption')}. "
            "Search with no_double_word (on the command line --no-double-word), or train longer."
        )
    if unknown:
        warnings.append(
            f"{UNKNOWN} stands {format_count(unknown, 'time')} in the captions. "
            "Search with that word banned."
        )
    return tuple(warnings)


def shuffled(
    candidates: Candidates,
    references: References,
    *,
    document_frequency: DocumentFrequency | None = None,
    seed: int = 0,
) -> Scores:
    """Score every caption against the references of some other image.

    A model that looks at the image scores far lower so; one that says what fits most images
    scores about the same.

    Args:
        candidates: A caption for each image id.
        references: One or more captions for each of the same ids.
        document_frequency: As in :func:`~captioning.metrics.score`.
        seed: Of the shuffle.

    Raises:
        ScoreError: There are fewer than two images, or they cannot be scored.
    """
    candidates = as_candidates(candidates)
    if len(candidates) < 2:
        raise ScoreError(
            f"{format_count(len(candidates), 'image')} cannot be shuffled. Score two "
            "images or more."
        )
    ids = list(candidates)
    order = np.random.default_rng(seed).permutation(len(ids))
    # Each takes the caption of the next in a random ring: no image keeps its own.
    moved = {
        ids[here]: candidates[ids[there]]
        for here, there in zip(order, np.roll(order, 1), strict=True)
    }
    scores = score(moved, references, document_frequency=document_frequency)
    return replace(scores, signature=f"{scores.signature}|shuffled:seed{seed}")
