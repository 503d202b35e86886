"""Compare the captions of two systems for the same images, with significance tests.

The tests are the paired bootstrap and approximate randomization.

For example:

    captioning compare a.json b.json captions_val2014.json
    captioning compare a.json b.json flickr8k:Flickr8k --split test
    captioning compare a.jsonl b.jsonl coco:COCO --samples 10000
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from captioning.cli.references import load_candidates, load_references, require_same_images
from captioning.messages import check_minimum
from captioning.text.tokenizers import TokenizerName


@dataclass(frozen=True)
class CompareConfig:
    """Compare the captions of two systems for the same images."""

    a: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="A")]
    """Results of system A; same formats as RESULTS of `captioning score`."""
    b: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="B")]
    """Results of system B; same formats."""
    references: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="REFERENCES")]
    """COCO annotations or Karpathy's split file, or a data set such as flickr8k:DIR."""
    split: Annotated[
        str | None, tyro.conf.arg(metavar="SPLIT", help_behavior_hint="(default: val)")
    ] = None
    """Split of the references, if they are a data set or Karpathy's file. No effect on COCO
    annotations."""
    subset: bool = False
    """Score only images that have references and a caption from each system."""
    tokenizer: TokenizerName = "ptb"
    """Splits captions into lower-case words. ptb: as the official scorer does, for English.
    whitespace: at spaces, for captions that are split already. characters: for languages without
    spaces between words, such as Chinese."""
    samples: int = 1000
    """Number of resamples in each test (1 or more)."""
    seed: int = 0
    """Random seed of the resampling (0 or more)."""

    def __post_init__(self) -> None:
        check_minimum(self, samples=1, seed=0)


def run(config: CompareConfig) -> int:
    """Compare the captions, print a table, and return the exit code."""
    from captioning.metrics import compare  # slow to import: pandas

    references = load_references(config.references, config.split)
    a, b = (load_candidates(path, references) for path in (config.a, config.b))
    if not config.subset:
        require_same_images(config.a, a, references)
        require_same_images(config.b, b, references)
    comparison = compare(
        a,
        b,
        references.captions,
        samples=config.samples,
        seed=config.seed,
        subset=config.subset,
        tokenizer=config.tokenizer,
    )
    print(f"A: {config.a}\nB: {config.b}\n\n{comparison.table()}")  # noqa: T201
    return 0
