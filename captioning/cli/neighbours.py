"""How a command looks at the images that --neighbours names."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from captioning.cli.progress import progress_bar
from captioning.errors import counted

if TYPE_CHECKING:  # torch takes seconds to import, and --help needs none of it
    from captioning.inference.captioner import Captioner


def beside(
    captioner: "Captioner", data: Sequence[str], *, cache: Path, workers: int, console: Console
) -> "Captioner":
    """Return a captioner that asks the training images of data sets; itself where there is none.

    What cannot be read of them is told of.

    Args:
        captioner: The model.
        data: The data sets.
        cache: Where the images' vectors are kept.
        workers: Processes that read images.
        console: Where the wait is told of.
    """
    if not data:
        return captioner
    with progress_bar(console, unit="photos/s") as progress:
        task = progress.add_task("looking at neighbours", total=None)
        told = False  # of the data set at hand

        def look(done: int, total: int) -> None:
            nonlocal told
            if progress.disable and done < total and not told:  # no bar tells of the wait
                console.print(f"looking at {counted(total, 'image')}, which is done once")
            told = done < total
            progress.update(task, completed=done, total=total)

        asking = captioner.with_neighbours(*data, cache=cache, workers=workers, watch=look)
    assert asking.consensus is not None
    if left_out := asking.consensus.left_out:
        console.print(
            f"{counted(len(left_out), 'neighbour')} cannot be read and will not be asked; the "
            f"first: {next(iter(left_out.values()))}"
        )
    return asking
