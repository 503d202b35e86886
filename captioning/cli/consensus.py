"""Extraction of the images that ``--consensus-data`` names."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from captioning.cli.progress import progress_bar
from captioning.messages import format_count

if TYPE_CHECKING:  # torch takes seconds to import, and --help needs none of it
    from captioning.inference.captioner import Captioner


def add_consensus(
    captioner: "Captioner", data: Sequence[str], *, cache: Path, workers: int, console: Console
) -> "Captioner":
    """Return a captioner with consensus reranking, or the same one if ``data`` is empty.

    Args:
        captioner: The model.
        data: Data sets whose training images are compared with each captioned image.
        cache: Directory of the images' feature vectors.
        workers: Processes that read images.
        console: Receives progress, and the number of images that cannot be read.
    """
    if not data:
        return captioner
    with progress_bar(console, unit="images/s") as progress:
        task = progress.add_task("extracting features", total=None)
        announced = False  # once per data set

        def show(done: int, total: int) -> None:
            nonlocal announced
            if progress.disable and done < total and not announced:
                console.print(
                    f"Extracting features of {format_count(total, 'image')}; "
                    "later runs use the cache."
                )
            announced = done < total
            progress.update(task, completed=done, total=total)

        reranking = captioner.with_consensus(*data, cache=cache, workers=workers, on_progress=show)
    assert reranking.consensus is not None
    if unreadable := reranking.consensus.unreadable:
        console.print(
            f"Consensus data: {format_count(len(unreadable), 'image')} cannot be read and "
            f"will not be used. The first: {next(iter(unreadable.values()))}"
        )
    return reranking
