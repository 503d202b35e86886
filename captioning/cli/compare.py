"""Compare two systems' captions of the same images: is one better, or is it chance?

Paired bootstrap and approximate randomisation, with p-values.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from captioning.cli.references import find_candidates, find_references, refuse_partial
from captioning.messages import check_minimum
from captioning.metrics import compare


@dataclass(frozen=True)
class CompareConfig:
    """Compare two systems' captions of the same images."""

    a: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="A")]
    """Results of one system, as ``captioning score`` reads them."""
    b: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="B")]
    """Results of the other."""
    references: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="REFERENCES")]
    """COCO annotations: {"annotations": [{"image_id": 1, "caption": "a dog"}, ...]}, or a data set
    such as ``flickr8k:DIR``."""
    split: str = "val"
    """Of a data set of references."""
    samples: int = 1000
    """Samples of each test."""
    seed: int = 0
    """Of the draws."""

    def __post_init__(self) -> None:
        check_minimum(self, samples=1, seed=0)


def run(settings: CompareConfig) -> int:
    """Compare, and return the exit code."""
    references = find_references(settings.references, settings.split)
    a, b = (find_candidates(path, references) for path in (settings.a, settings.b))
    for path, candidates in ((settings.a, a), (settings.b, b)):
        refuse_partial(path, candidates, references, "Caption the rest.")
    found = compare(
        a,
        b,
        references.captions,
        samples=settings.samples,
        seed=settings.seed,
    )
    print(f"A: {settings.a}\nB: {settings.b}\n\n{found.table()}")  # noqa: T201
    return 0
