"""Scores of captions: BLEU, ROUGE-L and CIDEr-D, and all that a reader needs to trust them."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pandas as pd

from captioning.errors import ScoreError
from captioning.metrics.bleu import BleuCounts, bleu_rows, bleu_table, counts_of
from captioning.metrics.cider import DocumentFrequency, cider_d
from captioning.metrics.inputs import (
    Candidates,
    References,
    as_candidates,
    as_references,
    check_pair,
)
from captioning.metrics.ngrams import ImageId, count_ngrams, split_at_blanks
from captioning.metrics.resampling import Interval, bootstrap
from captioning.metrics.rouge import rouge_l
from captioning.text.tokenizer import tokenize_lines

NAMES = {
    "bleu_1": "BLEU-1",
    "bleu_2": "BLEU-2",
    "bleu_3": "BLEU-3",
    "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "cider": "CIDEr",
    "meteor": "METEOR",
    "spice": "SPICE",
}
"""The scores, and how tables print them."""


@dataclass(frozen=True, eq=False, repr=False)
class Scores:
    """What :func:`score` found.

    Attributes lie between 0 and 1, but CIDEr between 0 and 10; tables print them times 100. A
    notebook shows the table. Two of these are equal where they are the same object; compare what
    they hold by :attr:`values` or :attr:`per_image`.
    """

    bleu_1: float
    bleu_2: float
    bleu_3: float
    bleu_4: float
    rouge_l: float
    cider: float | None
    """None where it is undefined; :attr:`notes` says why."""
    counts: BleuCounts
    """The counts behind BLEU."""
    per_image: pd.DataFrame
    """One row for each image, indexed by its id: the caption, its length in words, every score,
    and the counts behind its BLEU."""
    signature: str
    """Every choice that moves a number, on one line."""
    notes: tuple[str, ...] = ()
    """What a reader must know, in plain words: undefined scores, empty captions."""
    meteor: float | None = None
    """Only where asked for (see :mod:`captioning.metrics.java`)."""
    spice: float | None = None
    """Only where asked for (see :mod:`captioning.metrics.java`)."""

    def __repr__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        """Return the scores, times 100, as an HTML table for notebooks."""
        columns = {NAMES[name]: f"{100 * value:.2f}" for name, value in self.values.items()}
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
        """The defined corpus scores by their names."""
        found = {name: getattr(self, name) for name in NAMES}
        return {name: value for name, value in found.items() if value is not None}

    def intervals(
        self, *, confidence: float = 0.95, samples: int = 1000, seed: int = 0
    ) -> dict[str, Interval]:
        """Return a bootstrap interval for each score but METEOR.

        METEOR of a corpus follows from sums that its Java keeps to itself, not from its scores of
        single images.

        Images are drawn with replacement and their counts summed anew. The document frequencies of
        CIDEr stay those of the whole set. Koehn (2004), Statistical significance tests for machine
        translation evaluation.

        Args:
            confidence: Share of the samples inside the interval.
            samples: Bootstrap samples.
            seed: Of the draws.

        Raises:
            ScoreError: ``confidence`` is not between 0 and 1, or ``samples`` below 1.
        """
        if not 0 < confidence < 1:
            raise ScoreError(f"confidence is {confidence}; it is between 0 and 1, such as 0.95.")
        summed = {name: value for name, value in self.values.items() if name != "meteor"}
        return bootstrap(self.per_image, summed, confidence, samples, seed)

    def as_dict(self) -> dict[str, Any]:
        """Return all but the per-image table as plain values, for JSON."""
        return {
            "scores": {name: getattr(self, name) for name in NAMES if name in self.values}
            | ({"cider": None} if self.cider is None else {}),
            "bleu_counts": {
                "guess": list(self.counts.guess),
                "correct": list(self.counts.correct),
                "candidate_length": self.counts.candidate_length,
                "reference_length": self.counts.reference_length,
            },
            "images": len(self),
            "signature": self.signature,
            "notes": list(self.notes),
        }

    def table(self, intervals: Mapping[str, Interval] | None = None) -> str:
        """Return the scores, times 100 as people print them, as a table to read.

        Args:
            intervals: What :meth:`intervals` gave, to be printed beside the scores.
        """
        lines = []
        for name, value in self.values.items():
            line = f"{NAMES[name]:<8} {100 * value:6.2f}"
            if intervals and name in intervals:
                low, high = intervals[name].low, intervals[name].high
                line += f"   [{100 * low:.2f}, {100 * high:.2f}]"
            lines.append(line)
        if self.cider is None:
            lines.append(f"{'CIDEr':<8}    n/a")
        lines += [f"note: {note}" for note in self.notes]
        lines.append(self.signature)
        return "\n".join(lines)


def score(
    candidates: Candidates,
    references: References,
    *,
    document_frequency: DocumentFrequency | None = None,
    java: Sequence[str] = (),
) -> Scores:
    """Score one caption for each image against its references.

    The numbers are those of pycocoevalcap 1.2 on the same captions, its Stanford tokenizer
    included, but need no Java.

    Args:
        candidates: A caption for each image id: a mapping, or a column of a table whose index
            holds the ids. A caption may be a list of that one caption, as pycocoevalcap has it.
        references: One or more captions for each of the same ids, as a mapping or a column.
        document_frequency: Weigh CIDEr's words by this table and not by the references given.
        java: Further metrics out of ``"meteor"`` and ``"spice"``, which need Java.

    Raises:
        ScoreError: One of the two is no mapping, the ids differ, an image has no reference or
            more than one candidate, or there is nothing to score.
    """
    candidates, references = as_candidates(candidates), as_references(references)
    check_pair(candidates, references)
    if java:
        from captioning.metrics.java import check_java

        check_java(java)
    ids = list(references)
    counts = [len(references[i]) for i in ids]
    words = tokenize_lines([candidates[i] for i in ids])
    words += tokenize_lines([caption for i in ids for caption in references[i]])
    image = np.concatenate([np.arange(len(ids)), np.repeat(np.arange(len(ids)), counts)])
    scores = _scored(words, image, ids, candidates, document_frequency)
    if java:
        from captioning.metrics.java import java_scores

        whole = [[_printable(word) for word in caption] for caption in words]
        scores = _with_java(scores, java_scores(java, whole, image, len(ids)))
    return scores


def _scored(
    words: list[list[str]],
    image: np.ndarray,
    ids: list[Hashable],
    candidates: Mapping[ImageId, str],
    frequency: DocumentFrequency | None,
) -> Scores:
    images = len(ids)
    split = [split_at_blanks(caption) for caption in words]
    ngrams = count_ngrams(split)
    rows = bleu_rows(ngrams, np.array([len(caption) for caption in split]), image, images)
    starts = np.searchsorted(image[images:], np.arange(images + 1)) + images
    rouge = np.array([rouge_l(words[i], words[starts[i] : starts[i + 1]]) for i in range(images)])
    defined = images > 1 or frequency is not None
    cider = cider_d(split, ngrams, image, images, frequency) if defined else np.full(images, np.nan)
    bleu = bleu_table(rows)
    table = pd.DataFrame(
        {"caption": [_printable(candidates[i]) for i in ids], "length": rows[:, 8]}
        | {f"bleu_{n + 1}": bleu[:, n] for n in range(4)}
        | {"rouge_l": rouge, "cider": cider}
        | {f"guess_{n + 1}": rows[:, n] for n in range(4)}
        | {f"correct_{n + 1}": rows[:, 4 + n] for n in range(4)}
        | {"reference_length": rows[:, 9]},
        index=pd.Index(ids, name="image_id", tupleize_cols=False),
    )
    corpus = counts_of(rows.sum(axis=0))
    notes = _notes(defined, rows[:, 8], ids)
    return Scores(
        *corpus.bleu(),
        rouge_l=float(rouge.mean()),
        cider=float(cider.mean()) if defined else None,
        counts=corpus,
        per_image=table,
        signature=_signature(image, images, frequency),
        notes=notes,
    )


def _printable(text: str) -> str:
    """Return ``text`` with a ``?`` for each half of a character, which no table of texts holds."""
    return text.encode(errors="replace").decode()


def _notes(cider: bool, lengths: np.ndarray, ids: list[Hashable]) -> tuple[str, ...]:
    notes = []
    if not cider:
        notes.append(
            "CIDEr is undefined for one image: it weighs words by their frequency among images. "
            "Score more images, or give a document frequency file."
        )
    empty = np.flatnonzero(lengths == 0)
    if len(empty):
        notes.append(
            f"Candidates without words: {len(empty):,} of {len(ids):,} (such as image "
            f"{ids[empty[0]]!r}). Each is scored as it is, which is 0."
        )
    return tuple(notes)


def _signature(image: np.ndarray, images: int, frequency: DocumentFrequency | None) -> str:
    references = np.bincount(image[images:])
    low, high = int(references.min()), int(references.max())
    try:
        ours = version("captioning")
    except PackageNotFoundError:
        ours = "unknown"
    idf = f"{frequency.name},{frequency.images}images" if frequency else "references"
    return "|".join(
        [
            f"images:{images}",
            f"refs:{low}" if low == high else f"refs:{low}-{high}",
            "tok:ptb-3.4.1-lower-nopunct",
            "bleu:corpus,closest,eps1e-15/1e-9",
            "rouge-l:beta1.2",
            f"cider:D,n4,sigma6,idf={idf}",
            f"captioning:{ours}",
        ]
    )


def _with_java(scores: Scores, found: Mapping[str, tuple[float, np.ndarray]]) -> Scores:
    table = scores.per_image.assign(**{name: values for name, (_, values) in found.items()})
    signature = scores.signature + "".join(f"|{name}:pycocoevalcap" for name in found)
    meteor, spice = (found[name][0] if name in found else None for name in ("meteor", "spice"))
    return replace(scores, per_image=table, signature=signature, meteor=meteor, spice=spice)
