"""Consensus reranking on the command line: its flags, and the extraction of its images."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from captioning.cli.progress import PhaseProgress
from captioning.messages import format_count
from captioning.training.callback import ENCODING

if TYPE_CHECKING:  # torch takes seconds to import, and --help needs none of it
    from rich.console import Console

    from captioning.inference.captioner import Captioner


@dataclass(frozen=True)
class ConsensusFlags:
    """The flags of consensus reranking."""

    consensus_data: Annotated[
        tuple[str, ...],
        tyro.conf.arg(metavar="DATA ...", help_behavior_hint="(default: none)"),
    ] = ()
    """Data sets for consensus reranking: select the hypothesis that agrees best with the captions
    of the ten most similar images in the train split of these data sets. For example
    flickr8k:DIR."""
    cache: Path = Path("features")
    """Directory in which the feature vectors of --consensus-data are cached."""


def add_consensus(
    captioner: "Captioner", flags: ConsensusFlags, workers: int, console: "Console"
) -> "Captioner":
    """Return a captioner with consensus reranking, or the same one without ``--consensus-data``.

    Args:
        captioner: The model.
        flags: Data sets whose training images are compared with each captioned image.
        workers: Processes that decode images.
        console: Receives progress, and the number of images that cannot be read.
    """
    if not flags.consensus_data:
        if flags.cache != ConsensusFlags().cache:
            console.print("--cache has no effect without --consensus-data.")
        return captioner
    with PhaseProgress(console) as progress:
        progress.start(ENCODING)
        reranking = captioner.with_consensus(
            *flags.consensus_data, cache=flags.cache, workers=workers, on_progress=progress.update
        )
    assert reranking.consensus is not None
    if unreadable := reranking.consensus.unreadable:
        count, first = format_count(len(unreadable), "image"), next(iter(unreadable.values()))
        console.print(f"Consensus data: {count} cannot be read and will not be used: {first}")
    return reranking
