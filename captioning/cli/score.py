"""Score anybody's captions: a file of results against what people said."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from captioning.cli.progress import stderr_console
from captioning.cli.references import find_candidates, find_references, refuse_partial
from captioning.cli.report import Report
from captioning.datasets.coco_results import select_references
from captioning.messages import format_count
from captioning.metrics import DocumentFrequency, score
from captioning.metrics.java import check_java


@dataclass(frozen=True)
class ScoreConfig:
    """Score anybody's captions."""

    results: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RESULTS")]
    """COCO results, [{"image_id": 1, "caption": "a dog"}, ...], or what ``captioning caption``
    wrote as .json or .jsonl, where the files' names say what a caption is of."""
    references: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="REFERENCES")]
    """COCO annotations: {"annotations": [{"image_id": 1, "caption": "a dog"}, ...]}, or a data set
    such as ``flickr8k:DIR``."""
    split: str = "val"
    """Of a data set of references."""
    subset: bool = False
    """The results are for some of the annotated images: score those alone."""
    document_frequency: Path | None = None
    """Weigh CIDEr's words by this table and not by the references given."""
    java: tuple[Literal["meteor", "spice"], ...] = ()
    """Further metrics, which need Java: meteor spice."""
    json: bool = False
    """Print JSON instead of a table."""


def run(settings: ScoreConfig) -> int:
    """Score, and return the exit code."""
    if settings.java:
        check_java(settings.java)
    found = find_references(settings.references, settings.split)
    candidates, references = find_candidates(settings.results, found), dict(found.captions)
    if settings.subset:
        left_out = len(references)
        references = select_references(references, candidates)
        left_out -= len(references)
        stderr_console().print(
            f"Left out, without a result: {format_count(left_out, 'annotated image')}"
        )
    else:
        advice = "Give --subset to score the others alone, or caption the rest."
        refuse_partial(settings.results, candidates, found, advice)
    path = settings.document_frequency
    table = None if path is None else DocumentFrequency.load(path)
    scores = score(candidates, references, document_frequency=table, java=settings.java)
    report = Report(scores, candidates, references, scores.signature, document_frequency=table)
    print(report.as_json() if settings.json else report.table())  # noqa: T201
    return 0
