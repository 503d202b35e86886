"""Score a file of captions against references.

For example:

    captioning score captions_test_results.json flickr8k:Flickr8k --split test
    captioning score captions.jsonl coco:COCO --subset
    captioning score results.json captions_val2014.json --java meteor
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from captioning.cli.references import load_candidates, load_references, require_same_images
from captioning.errors import ScoreError
from captioning.files import read_text
from captioning.text.tokenizers import TokenizerName

if TYPE_CHECKING:
    from captioning.metrics import DocumentFrequency


@dataclass(frozen=True)
class ScoreConfig:
    """Score a file of captions."""

    results: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RESULTS")]
    """File that `captioning caption` wrote (.jsonl, .csv, .parquet, .json), or other COCO
    results."""
    references: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="REFERENCES")]
    """COCO annotations or Karpathy's split file, or a data set such as flickr8k:DIR."""
    split: Annotated[
        str | None, tyro.conf.arg(metavar="SPLIT", help_behavior_hint="(default: val)")
    ] = None
    """Split of the references, if they are a data set or Karpathy's file. No effect on COCO
    annotations."""
    subset: bool = False
    """Score only images that have references and a caption."""
    document_frequency: Path | None = None
    """JSON file of the n-gram document frequencies for CIDEr, as
    ``captioning.metrics.DocumentFrequency(...).to_json()`` returns it (default: count them over
    the references)."""
    tokenizer: TokenizerName = "ptb"
    """Splits captions into lower-case words. ptb: as the official scorer does, for English.
    whitespace: at spaces, for captions that are split already. characters: for languages without
    spaces between words, such as Chinese."""
    java: tuple[Literal["meteor", "spice"], ...] = ()
    """Additional metrics, which need Java."""
    json: bool = False
    """Print JSON instead of a table."""


def run(config: ScoreConfig) -> int:
    """Score the captions, print a report, and return the exit code."""
    from captioning.cli.report import Report
    from captioning.metrics import check_java, score  # slow to import: pandas

    if config.java:
        check_java(config.java)
    loaded = load_references(config.references, config.split)
    candidates = load_candidates(config.results, loaded)
    if not config.subset:
        require_same_images(config.results, candidates, loaded)
    table = _read_frequency(config.document_frequency)
    scores = score(
        candidates,
        loaded.captions,
        document_frequency=table,
        java=config.java,
        subset=config.subset,
        tokenizer=config.tokenizer,
    )
    captions = {image: candidates[image] for image in loaded.captions if image in candidates}
    references = {image: loaded.captions[image] for image in captions}
    report = Report(scores, captions, references, scores.signature, document_frequency=table)
    print(report.as_json() if config.json else report.table())  # noqa: T201
    return 0


def _read_frequency(path: Path | None) -> "DocumentFrequency | None":
    from captioning.metrics import DocumentFrequency

    if path is None:
        return None
    return DocumentFrequency.from_json(read_text(path, error=ScoreError), source=str(path))
