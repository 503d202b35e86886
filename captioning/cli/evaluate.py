"""Caption a split of a data set, and score the captions against its references.

The captions are written in the COCO results format before they are scored. Exit code: 0 if every
image was captioned, 1 if some images or the command failed, 2 for wrong usage.

For example:

    captioning evaluate --data flickr8k:Flickr8k --split test
    captioning evaluate runs/first/model --data coco:COCO --width 5
    captioning evaluate runs/a/model --ensemble runs/b/model --data flickr8k:Flickr8k
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro

from captioning.cli.consensus import ConsensusFlags, add_consensus
from captioning.cli.progress import PhaseProgress, stderr_console
from captioning.cli.search_flags import SearchFlags, apply_flags
from captioning.files import check_writable
from captioning.inference.backend_config import BackendConfig
from captioning.messages import check_minimum, check_ranges, format_count
from captioning.processes import connect_processes, is_main_process

if TYPE_CHECKING:  # importing torch takes seconds, and --help does not need it
    from rich.console import Console

    from captioning.evaluation.evaluate import EvaluationResult

_MAX_FAILURES = 5  # that are listed


@dataclass(frozen=True)
class EvaluateConfig:
    """Caption a split of a data set, and score the captions."""

    SECTIONS: ClassVar = {
        "data": "input",
        "output": "output",
        "ensemble": "model",
        "search": "search",
        "batch_size": "speed",
    }

    data: str
    """Data set, named as for ``captioning train``."""
    model: Annotated[
        str | None,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="[MODEL]", help_behavior_hint="(default: the packaged model)"),
    ] = None
    """Model directory, or id on the Hugging Face Hub."""
    split: str = "val"
    """Data set split: train, val or test."""
    val_fraction: float = 0.0
    """Share of the training images that was held out for validation (0: none), as in training."""
    split_seed: int = 0
    """Seed of the held-out images, as in training."""
    features: Path | None = None
    """External features, for a model that was trained with this option: a folder with one
    .npz or .npy file per image, or an HDF5 file with one dataset per image."""
    output: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="FILE",
            aliases=["-o"],
            help_behavior_hint="(default: captions_SPLIT_results.json)",
        ),
    ] = None
    """File for the captions, in the COCO results format."""
    java: Annotated[
        tuple[Literal["meteor", "spice"], ...],
        tyro.conf.arg(metavar="{meteor,spice} ...", help_behavior_hint="(default: none)"),
    ] = ()
    """Additional metrics, which need Java."""
    json: bool = False
    """Print JSON instead of a table."""
    ensemble: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="MODEL ...", help_behavior_hint="(default: none)")
    ] = ()
    """Additional models. The word probabilities of all models are averaged."""
    device: str = "auto"
    """Device: auto (CUDA, then MPS, then the CPU), cpu, cuda, cuda:1, or mps."""
    backend: Annotated[BackendConfig, tyro.conf.OmitArgPrefixes, tyro.conf.arg(name="")] = field(
        # Scores must not depend on the machine.
        default_factory=lambda: BackendConfig(precision="float32")
    )
    consensus: Annotated[ConsensusFlags, tyro.conf.OmitArgPrefixes, tyro.conf.arg(name="")] = field(
        default_factory=ConsensusFlags
    )
    search: Annotated[SearchFlags, tyro.conf.OmitArgPrefixes, tyro.conf.arg(name="")] = field(
        default_factory=SearchFlags
    )
    batch_size: int = 64
    """Number of images per batch (1 or more)."""
    workers: int = 2
    """Number of processes that read image files (0: read in the main process)."""

    def __post_init__(self) -> None:
        check_minimum(self, batch_size=1, workers=0)
        check_ranges(self, "[0, 1)", "val_fraction")


def run(config: EvaluateConfig) -> int:
    """Evaluate, and return the exit code."""
    from captioning.evaluation.evaluate import EvaluationConfig, evaluate
    from captioning.inference.captioner import Captioner
    from captioning.metrics import check_java

    connect_processes(config.device)
    console = stderr_console()
    captioner = Captioner.from_pretrained(
        config.model, *config.ensemble, device=config.device, **asdict(config.backend)
    )
    output = config.output or Path(f"captions_{config.split}_results.json")
    if config.java:
        check_java(config.java)
    check_writable(output)
    search = apply_flags(captioner.checkpoint.search, config.search)
    captioner.check_search(search)
    if search.captions_per_image > 1:
        console.print("Only the best caption of each image is scored and written.")
    captioner = add_consensus(captioner, config.consensus, config.workers, console)
    with PhaseProgress(console) as progress:
        evaluation = evaluate(
            captioner,
            config.data,
            split=config.split,
            search=search,
            config=EvaluationConfig(
                output,
                features=config.features,
                java=config.java,
                batch_size=config.batch_size,
                workers=config.workers,
                val_fraction=config.val_fraction,
                split_seed=config.split_seed,
            ),
            on_phase=progress.start,
            on_progress=progress.update,
        )
    console.print(f"Captions written to {output}")
    if is_main_process():
        _print_evaluation(evaluation, console, as_json=config.json)
    return 1 if evaluation.errors else 0


def _print_evaluation(result: "EvaluationResult", console: "Console", *, as_json: bool) -> None:
    """Print the report to standard output, and the problems of the data to the console."""
    from captioning.cli.report import Report  # slow to import: pandas

    if problems := result.split.problems.report():
        console.print(problems)
    report = Report(
        result.scores, result.captions, result.references, result.signature, result.train_captions
    )
    print(report.as_json() if as_json else report.table())  # noqa: T201
    for reason in list(result.errors.values())[:_MAX_FAILURES]:
        console.print(f"Not captioned: {reason}")
    if (more := len(result.errors) - _MAX_FAILURES) > 0:
        console.print(f"Not captioned: {format_count(more, 'more image')}.")
