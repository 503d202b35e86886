"""Score a file of captions against references.

For example:

    captioning score captions_test_results.json flickr8k:Flickr8k --split test
    captioning score captions.jsonl coco:COCO --subset
    captioning score results.json captions_val2014.json --java meteor
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from captioning.cli.progress import stderr_console
from captioning.cli.references import load_candidates, load_references, require_complete
from captioning.cli.report import Report
from captioning.datasets.coco_results import select_references
from captioning.messages import format_count
from captioning.metrics import DocumentFrequency, check_java, score


@dataclass(frozen=True)
class ScoreConfig:
    """Score a file of captions."""

    results: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RESULTS")]
    """COCO results file, or a .json or .jsonl file written by `captioning caption`."""
    references: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="REFERENCES")]
    """COCO annotations file, or a data set such as flickr8k:DIR."""
    split: str = "val"
    """Split of the data set of references."""
    subset: bool = False
    """Score only the images that have a result, and ignore the other references."""
    document_frequency: Path | None = None
    """File of n-gram document frequencies for CIDEr (default: count them over the references)."""
    java: tuple[Literal["meteor", "spice"], ...] = ()
    """Additional metrics, which need Java."""
    json: bool = False
    """Print JSON instead of a table."""


def run(config: ScoreConfig) -> int:
    """Score the captions, print a report, and return the exit code."""
    if config.java:
        check_java(config.java)
    loaded = load_references(config.references, config.split)
    candidates, references = load_candidates(config.results, loaded), dict(loaded.captions)
    if config.subset:
        references = select_references(references, candidates)
        ignored = format_count(len(loaded.captions) - len(references), "image")
        stderr_console().print(f"Ignored {ignored} without a result.")
    else:
        advice = "Give --subset to ignore them, or caption the rest."
        require_complete(config.results, candidates, loaded, advice)
    path = config.document_frequency
    table = None if path is None else DocumentFrequency.load(path)
    scores = score(candidates, references, document_frequency=table, java=config.java)
    report = Report(scores, candidates, references, scores.signature, document_frequency=table)
    print(report.as_json() if config.json else report.table())  # noqa: T201
    return 0
