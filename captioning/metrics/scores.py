"""Scores of captions with their intervals, notes and signature."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pandas as pd

from captioning.errors import ScoreError
from captioning.metrics.bleu import BleuCounts, compute_bleu, count_bleu
from captioning.metrics.cider import DocumentFrequency, compute_cider_d
from captioning.metrics.java import check_java, compute_java_scores
from captioning.metrics.notes import find_notes
from captioning.metrics.resampling import BLEU_COLUMNS, Interval, draw_weights, resample_scores
from captioning.metrics.rouge import compute_rouge_l
from captioning.metrics.score_inputs import (
    Candidates,
    References,
    check_pairing,
    explain_arguments,
    normalize_candidates,
    normalize_references,
    select_common,
)
from captioning.text.ngrams import ImageId, count_ngrams, split_at_spaces
from captioning.text.tokenizers import (
    Tokenizer,
    TokenizerName,
    get_tokenizer,
    seem_unsplit,
)

SCORE_NAMES = {
    "bleu_1": "BLEU-1",
    "bleu_2": "BLEU-2",
    "bleu_3": "BLEU-3",
    "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "cider": "CIDEr",
    "meteor": "METEOR",
    "spice": "SPICE",
}
"""Names of the scores in tables."""
_UNSPLIT = (
    "The references look like one word each. If their language has no spaces between words, use "
    "the tokenizer 'characters'."
)


@dataclass(frozen=True, eq=False, repr=False)
class Scores:
    """Result of :func:`score`.

    Scores are between 0 and 1, CIDEr between 0 and 10. Tables show them times 100. Two results are
    equal only if they are the same object; compare their :attr:`values` or :attr:`per_image`.
    """

    bleu_1: float
    bleu_2: float
    bleu_3: float
    bleu_4: float
    rouge_l: float
    cider: float | None
    """None if undefined; :attr:`notes` says why."""
    counts: BleuCounts
    """The counts behind BLEU."""
    per_image: pd.DataFrame
    """One row per image, indexed by image id: caption, length in words, scores, BLEU counts."""
    signature: str
    """All choices that affect the scores, on one line."""
    notes: tuple[str, ...] = ()
    """Why a score is undefined or 0, and signs of a mistake in the captions."""
    meteor: float | None = None
    """None if not requested (see :mod:`captioning.metrics.java`)."""
    spice: float | None = None
    """None if not requested (see :mod:`captioning.metrics.java`)."""
    tokenizer: TokenizerName = "ptb"
    """Tokenizer that split the captions into words."""

    def __repr__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        """Return the scores, times 100, as an HTML table for notebooks."""
        columns = {SCORE_NAMES[name]: f"{100 * value:.2f}" for name, value in self.values.items()}
        if self.cider is None:
            columns["CIDEr"] = "n/a"
        head = "".join(f"<th>{name}</th>" for name in columns)
        row = "".join(f"<td>{value}</td>" for value in columns.values())
        notes = "".join(f"<p>Note: {escape(note)}</p>" for note in self.notes)
        caption = f"<caption>{escape(self.signature)}</caption>"
        return f"<table>{caption}<tr>{head}</tr><tr>{row}</tr></table>{notes}"

    def __len__(self) -> int:
        return len(self.per_image)

    @property
    def values(self) -> dict[str, float]:
        """The defined corpus scores by name."""
        values = {name: getattr(self, name) for name in SCORE_NAMES}
        return {name: value for name, value in values.items() if value is not None}

    def intervals(
        self, *, confidence: float = 0.95, samples: int = 1000, seed: int = 0
    ) -> dict[str, Interval]:
        """Return a bootstrap interval for each score except METEOR.

        Images are drawn with replacement, and their counts are added. CIDEr keeps the document
        frequencies of the whole set. METEOR of a corpus cannot be computed from the METEOR scores
        of its images. Koehn (2004), Statistical significance tests for machine translation
        evaluation.

        Args:
            confidence: Share of the samples inside the interval, between 0 and 1.
            samples: Number of bootstrap samples (1 or more).
            seed: Seed of the random samples (0 or more).

        Raises:
            ScoreError: An argument is out of range.
        """
        if not 0 < confidence < 1:
            raise ScoreError(
                f"confidence is {confidence}; it must be between 0 and 1, such as 0.95."
            )
        names = [name for name in self.values if name != "meteor"]
        sampled = resample_scores(self.per_image, names, draw_weights(len(self), samples, seed))
        tails = [(1 - confidence) / 2, 1 - (1 - confidence) / 2]
        ends = {name: np.quantile(values, tails).tolist() for name, values in sampled.items()}
        return {name: Interval(low, high, confidence) for name, (low, high) in ends.items()}

    def as_dict(self) -> dict[str, Any]:
        """Return everything except the per-image table as plain values, for JSON."""
        return {
            "scores": {"cider": None} | self.values if self.cider is None else self.values,
            "bleu_counts": asdict(self.counts),
            "images": len(self),
            "signature": self.signature,
            "notes": list(self.notes),
        }

    def table(self, intervals: Mapping[str, Interval] | None = None) -> str:
        """Return the scores, times 100, as a text table.

        Args:
            intervals: Result of :meth:`intervals`, to be shown next to the scores.
        """
        lines = [f"{'':<8} {'score':>6}   95 % interval"] if intervals else []
        for name, value in self.values.items():
            line = f"{SCORE_NAMES[name]:<8} {100 * value:6.2f}"
            if intervals and name in intervals:
                low, high = intervals[name].low, intervals[name].high
                line += f"   [{100 * low:.2f}, {100 * high:.2f}]"
            lines.append(line)
        if self.cider is None:
            lines.append(f"{'CIDEr':<8}    n/a")
        lines += [f"note: {note}" for note in self.notes]
        lines.append(self.signature)
        return "\n".join(lines)


@explain_arguments
def score(
    candidates: Candidates,
    references: References,
    *,
    document_frequency: DocumentFrequency | None = None,
    java: Sequence[str] = (),
    subset: bool = False,
    tokenizer: TokenizerName = "ptb",
) -> Scores:
    """Score one caption for each image against its references.

    The scores equal those of pycocoevalcap 1.2 with its Stanford tokenizer, without Java.

    Args:
        candidates: A caption for each image id: a mapping, or a pandas Series with the ids as
            index. As in pycocoevalcap, a caption may be a list of that one caption.
        references: One or more captions for each of the same ids, as a mapping or a Series.
        document_frequency: For CIDEr. None counts document frequencies over the references.
        java: Further metrics that need Java: ``"meteor"``, ``"spice"``.
        subset: Score only the images that have a candidate and references. By default, all must
            have both.
        tokenizer: Splits captions into words. The official scorer uses ``"ptb"``, which is for
            English; see :func:`captioning.text.tokenizers.get_tokenizer`.

    Raises:
        ConfigError: There is no such tokenizer.
        ScoreError: An argument is not a mapping, the ids differ, an image does not have exactly
            one candidate or has no reference, or there are no images.
    """
    candidates, references = normalize_candidates(candidates), normalize_references(references)
    note = ""
    if subset:
        note, references, (candidates,) = select_common(references, candidates)
    check_pairing(candidates, references)
    if java:
        check_java(java)
    ids = list(references)
    counts = [len(references[i]) for i in ids]
    splitter = get_tokenizer(tokenizer)
    words = splitter.split_all([candidates[i] for i in ids])
    words += splitter.split_all([caption for i in ids for caption in references[i]])
    image_index = np.concatenate([np.arange(len(ids)), np.repeat(np.arange(len(ids)), counts)])
    scores = _score_words(words, image_index, candidates, references, document_frequency, splitter)
    if note:
        scores = replace(scores, notes=(note, *scores.notes))
    if java:
        printable = [[_replace_surrogates(word) for word in caption] for caption in words]
        added = compute_java_scores(java, printable, image_index, len(ids))
        columns = {name: values.per_image for name, values in added.items()}
        corpus = {name: values.corpus for name, values in added.items()}
        signature = scores.signature + "".join(f"|{name}:pycocoevalcap" for name in added)
        per_image = scores.per_image.assign(**columns)
        meteor, spice = corpus.get("meteor"), corpus.get("spice")
        scores = replace(
            scores, per_image=per_image, signature=signature, meteor=meteor, spice=spice
        )
    return scores


def _score_words(
    words: list[list[str]],
    image_index: np.ndarray,
    candidates: Mapping[ImageId, str],
    references: Mapping[ImageId, list[str]],
    frequency: DocumentFrequency | None,
    tokenizer: Tokenizer,
) -> Scores:
    ids = list(references)
    n = len(ids)
    split = [split_at_spaces(caption) for caption in words]
    ngrams = count_ngrams(split)
    rows = count_bleu(ngrams, np.array([len(caption) for caption in split]), image_index, n)
    starts = np.searchsorted(image_index[n:], np.arange(n + 1)) + n
    rouge = np.array(
        [compute_rouge_l(words[i], words[starts[i] : starts[i + 1]]) for i in range(n)]
    )
    has_cider = n > 1 or frequency is not None
    cider = np.full(n, np.nan)
    if has_cider:
        cider = compute_cider_d(split, ngrams, image_index, n, frequency)
    bleu = compute_bleu(rows)
    unsplit = seem_unsplit(words[n:])
    has_spaces = tokenizer.name != "characters" and not unsplit
    table = pd.DataFrame(
        {"caption": [_replace_surrogates(candidates[i]) for i in ids], "length": rows[:, 8]}
        | {f"bleu_{k + 1}": bleu[:, k] for k in range(4)}
        | {"rouge_l": rouge, "cider": cider}
        | dict(zip(BLEU_COLUMNS, rows.T, strict=True)),
        index=pd.Index(ids, name="image_id", tupleize_cols=False),
    )
    counts = BleuCounts.from_row(rows.sum(axis=0))
    return Scores(
        *counts.bleu(),
        rouge_l=float(rouge.mean()),
        cider=float(cider.mean()) if has_cider else None,
        counts=counts,
        per_image=table,
        signature=_build_signature(np.bincount(image_index[n:]), frequency, tokenizer),
        notes=find_notes(candidates, references, rows, cider, has_spaces=has_spaces)
        + ((_UNSPLIT,) if unsplit else ()),
        tokenizer=tokenizer.name,
    )


def _replace_surrogates(text: str) -> str:
    """Replace lone surrogates by ``?``, because pandas and Java cannot hold them."""
    return text.encode(errors="replace").decode()


def _build_signature(
    reference_counts: np.ndarray, frequency: DocumentFrequency | None, tokenizer: Tokenizer
) -> str:
    low, high = int(reference_counts.min()), int(reference_counts.max())
    try:
        package_version = version("captioning")
    except PackageNotFoundError:
        package_version = "unknown"
    idf = f"{frequency.name},{frequency.images}images" if frequency else "references"
    return "|".join(
        [
            f"images:{len(reference_counts)}",
            f"refs:{low}" if low == high else f"refs:{low}-{high}",
            f"tok:{tokenizer.signature}",
            "bleu:corpus,closest,eps1e-15/1e-9",
            "rouge-l:beta1.2",
            f"cider:D,n4,sigma6,idf={idf}",
            f"captioning:{package_version}",
        ]
    )
