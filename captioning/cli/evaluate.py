"""Caption a split with a model, and score the captions against those of people.

The captions are written, in the COCO results format, before they are scored.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from captioning.cli.consensus import add_consensus
from captioning.cli.progress import progress_bar, stderr_console
from captioning.cli.report import Report
from captioning.cli.search import chosen_search
from captioning.evaluation.evaluate import evaluate
from captioning.files import check_writable
from captioning.inference.captioner import Captioner
from captioning.messages import check_minimum
from captioning.metrics.java import check_java


@dataclass(frozen=True)
class EvaluateConfig:
    """Caption a split with a model, and score the captions."""

    data: str
    """``flickr8k:DIR``, ``coco:DIR``, ``karpathy:FILE``, ``jsonl:FILE`` or ``csv:FILE``."""
    model: Annotated[
        str | None,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="[MODEL]", help_behavior_hint="(default: the package's own)"),
    ] = None
    """A model directory or hub id."""
    others: tuple[str, ...] = ()
    """Further models that choose each word together with it, an ensemble."""
    consensus_data: tuple[str, ...] = ()
    """Captioned data sets (``flickr8k:DIR``) for consensus reranking: of the captions found, the
    one closest to the captions of similar training images wins."""
    cache: Path = Path("features")
    """Directory of the feature vectors of ``--consensus-data``, kept for later runs."""
    split: str = "val"
    """train, val or test."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Where the captions go; ``captions_SPLIT_results.json`` in this folder by default."""
    beam: int | None = None
    """Beam search of this width; the model's own search by default."""
    length_penalty: float | None = None
    """The beam's length penalty; the model's own by default."""
    no_repeat_ngram: int | None = None
    """No sequence of so many words twice in a caption; 0 for no such rule."""
    no_double_word: bool = False
    """No word twice in a row, nor with one other word between."""
    rerank_weight: float | None = None
    """What the phrases that a photo makes likely count in ranking what a beam found; the model's
    own by default, 0 for nothing."""
    java: tuple[Literal["meteor", "spice"], ...] = ()
    """Further metrics, which need Java: meteor spice."""
    json: bool = False
    """Print JSON instead of a table."""
    batch_size: int = 16
    """Photos that go through the network together."""
    workers: int = 2
    """Processes that read photos; 0 for none."""
    device: str = "cpu"
    """cpu, cuda or mps."""

    def __post_init__(self) -> None:
        check_minimum(self, batch_size=1, workers=0)


def run(settings: EvaluateConfig) -> int:
    """Evaluate, and return the exit code: 1 when some images could not be read."""
    console = stderr_console()
    captioner = Captioner.from_pretrained(settings.model, *settings.others, device=settings.device)
    output = settings.output or Path(f"captions_{settings.split}_results.json")
    if settings.java:
        check_java(settings.java)
    check_writable(output)
    captioner = add_consensus(
        captioner,
        settings.consensus_data,
        cache=settings.cache,
        workers=settings.workers,
        console=console,
    )
    search = chosen_search(
        captioner.checkpoint.search,
        beam=settings.beam,
        length_penalty=settings.length_penalty,
        no_repeat_ngram=settings.no_repeat_ngram,
        no_double_word=settings.no_double_word,
        rerank_weight=settings.rerank_weight,
    )
    with progress_bar(console, unit="photos/s") as progress:
        task = progress.add_task("captioning", total=None)
        found = evaluate(
            captioner,
            settings.data,
            split=settings.split,
            search=search,
            output=output,
            java=settings.java,
            batch_size=settings.batch_size,
            workers=settings.workers,
            watch=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if problems := found.split.problems.report():
        console.print(problems)
    console.print(f"The captions are in {output}")
    report = Report(found.scores, found.captions, found.references, found.signature, found.training)
    print(report.as_json() if settings.json else report.table())  # noqa: T201
    for why in list(found.unreadable.values())[:5]:
        console.print(f"left out: {why}")
    return 1 if found.unreadable else 0
