"""What ``captioning caption`` reports: plan, progress, failures, and the end of a run."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING

from captioning.bulk.convert import RowCounts
from captioning.bulk.writers.base import CaptionRow
from captioning.bulk.writers.registry import failure_list, holds_errors
from captioning.cli.caption_config import CaptionConfig, paths_without_files
from captioning.cli.progress import count_in_background, progress_bar, stderr_console
from captioning.files import is_special_file
from captioning.inference.backend_config import ResolvedBackend
from captioning.messages import escape_unprintable, format_count
from captioning.sources.image_names import is_archive
from captioning.sources.skipped import SkippedCounts

if TYPE_CHECKING:  # importing torch takes seconds, and --help does not need it
    from rich.console import Console

    from captioning.bulk.job import CaptionJob, JobCounts

_LISTED_FAILURES = 20


def print_plan(config: CaptionConfig, images: Iterable[object], ignored: SkippedCounts) -> None:
    """Print what the run would do."""
    total = format_count(sum(1 for _ in images), "image")
    name, output = config.format_name, config.output
    if name == "embed":
        plan = f"embed captions into {f'copies of {total} in {output}' if output else total}"
    elif config.per_image:
        where = f"into {output}" if output else "next to the images"
        plan = f"write .{name} files for {total}, {where}"
    else:
        plan = f"write captions of {total} as {name} to {output or 'standard output'}"
    print(f"Would {plan}.")  # noqa: T201
    for notice in ignored.notices(complete=config.limit is None):
        print(notice)  # noqa: T201


def _place_of_captions(config: CaptionConfig) -> str:
    """Return the place of captions without -o; empty for standard output."""
    if not config.per_image:
        return ""
    return "the images" if config.format_name == "embed" else "files next to the images"


@contextmanager
def show_progress(
    config: CaptionConfig, console: "Console", iterate: Callable[[], Iterable[object]]
) -> "Iterator[Callable[[JobCounts], None]]":
    """Show a progress bar; yield the callback that updates it.

    Args:
        config: Decides whether the bar has a total.
        console: Console of standard error.
        iterate: Returns the images once more, to count them.
    """
    to_stdout = config.output is None and not config.per_image
    rows_on_terminal = to_stdout and sys.stdout is not None and sys.stdout.isatty()
    with progress_bar(console, unit="images/s", enabled=not rows_on_terminal) as bar:
        task = bar.add_task("captioning", total=None)
        # Standard input can be read only once, and archives and URLs are slow to list.
        countable = "-" not in config.paths and not paths_without_files(config)
        if countable and not bar.disable:
            count_in_background(iterate, lambda total: bar.update(task, total=total))

        def on_progress(counts: "JobCounts") -> None:
            failed = f" ({counts.failed} failed)" if counts.failed else ""
            bar.update(task, completed=counts.done, description=f"captioning{failed}")

        yield on_progress


@dataclass
class FailureList:
    """The number of failed rows and the reasons of the first ones, to list them at the end."""

    format_name: str
    output: Path | None
    count: int = 0
    reasons: list[str] = field(default_factory=list)
    noun: str = "image"

    @property
    def place(self) -> Path | None:
        """The file that lists all failures; None if there is no such file."""
        return failure_list(self.format_name, self.output)

    def add(self, rows: Iterable[CaptionRow]) -> None:
        """Add the rows that failed."""
        for row in rows:
            if not row.ok:
                self.count += 1
                if is_archive(row.file_name) or has_magic(row.file_name):
                    self.noun = "input"  # the row is not an image: a whole input failed
                listed = holds_errors(self.format_name) or self.place is not None
                if len(self.reasons) < _LISTED_FAILURES or not listed:
                    self.reasons.append(row.error)

    def print(self, console: "Console", total: int) -> None:
        """List the failures.

        Args:
            console: Console of standard error.
            total: Number of all rows.
        """
        if not self.count:
            return
        inputs = format_count(total, self.noun)
        console.print(f"{self.count:,} of {inputs} could not be captioned:")
        for reason in self.reasons:
            console.print(f"  {escape_unprintable(reason)}")
        if others := self.count - len(self.reasons):
            console.print(f"  ... and {others:,} more (see the output)")
        if self.place is not None:
            console.print(f"{self.place} lists all failed images. The next run tries them again.")


def print_row_counts(done: str, counts: RowCounts, format_name: str, output: Path | None) -> None:
    """Print how many rows a command has written, and where failed images are.

    Args:
        done: What was done, such as "Converted".
        counts: Numbers of rows.
        format_name: Format of the output.
        output: Path of the output; None for standard output.
    """
    sentences = [f"{done} {format_count(counts.captioned + counts.failed, 'row')}."]
    if counts.failed:
        images = format_count(counts.failed, "failed image")
        place = failure_list(format_name, output)
        if place is not None:
            sentences.append(f"{place} lists {images}.")
        elif not holds_errors(format_name):
            sentences.append(f"Left out {images}: {format_name} cannot hold errors.")
    stderr_console().print(" ".join(sentences))


def print_skipped(console: "Console", skipped: int, kept_caption: str = "") -> None:
    """Print how many images keep their captions, and the sentence that quotes one of them."""
    if skipped:
        sentences = (
            f"Skipped {format_count(skipped, 'image')} with existing captions.",
            kept_caption,
            "Use --overwrite to replace them, or --append to add to them.",
        )
        console.print(" ".join(filter(None, sentences)))


class RunReport:
    """Collects the failures of a run, and prints its end.

    Attributes:
        missing: Number of images with a caption of an earlier run that are not inputs of this run.

    Args:
        config: Config of the run.
        console: Console of standard error.
        ignored: Counts of skipped files and folders, which contain no images.
        backend: What runs the model.
    """

    def __init__(
        self,
        config: CaptionConfig,
        console: "Console",
        ignored: SkippedCounts,
        backend: ResolvedBackend,
    ) -> None:
        self.config = config
        self.backend = backend
        self.console = console
        self.ignored = ignored
        self.missing = 0
        self.failures = FailureList(config.format_name, config.output)

    def print_end(self, job: "CaptionJob", signal: int, seconds: float) -> int:
        """Print the end of the run, and return its exit code.

        Args:
            job: The job, at its end.
            signal: The signal that stopped the run; 0 if it was not stopped.
            seconds: Duration of the run.
        """
        counts = job.counts
        for notice in self.ignored.notices(complete=not signal and self.config.limit is None):
            self.console.print(notice)
        print_skipped(self.console, counts.skipped, counts.kept_caption)
        if self.missing:
            images = format_count(self.missing, "image")
            self.console.print(
                f"Removed the rows of {images} of earlier runs, because this run does not include "
                "these images. Add them to the command to restore the rows."
            )
        self.failures.print(self.console, counts.captioned + counts.failed)
        if self.config.json:
            summary = self._summary(job, bool(signal), seconds)
            print(summary, file=sys.stdout if self.config.output else sys.stderr)
        if signal:
            self._print_interrupted(counts)
            return 128 + signal
        self._print_location(job)
        return 1 if counts.failed else 0

    def _summary(self, job: "CaptionJob", interrupted: bool, seconds: float) -> str:
        counts = job.counts
        new = counts.captioned + counts.failed - counts.resumed
        return json.dumps(
            {
                "captioned": counts.captioned,
                "failed": counts.failed,
                "from_earlier_runs": counts.resumed,
                "skipped_images": counts.skipped,
                "skipped_files": self.ignored.files.total(),
                "interrupted": interrupted,
                "seconds": round(seconds, 3),
                "images_per_second": round(new / seconds, 3) if seconds else None,
                **asdict(self.backend),
                "model_waited": round(job.speed.model_waited, 3),
                "readers_waited": round(job.speed.readers_waited, 3),
                "output": None if self.config.output is None else str(self.config.output),
            }
        )

    @property
    def _is_stream(self) -> bool:
        config = self.config
        return config.output is None or is_special_file(config.output)

    def _print_interrupted(self, counts: "JobCounts") -> None:
        advice = ""
        if self.config.per_image or not self._is_stream:
            without = " without --overwrite" if self.config.overwrite else ""
            advice = f" To resume, run the same command{without}."
        done = format_count(counts.done, "image")
        self.console.print(f"captioning: interrupted after {done}.{advice}")

    def _print_location(self, job: "CaptionJob") -> None:
        """Name the output and the speed on a terminal; scripts read the exit code."""
        counts, speed = job.counts, job.speed
        where = _place_of_captions(self.config) if self._is_stream else self.config.output
        if self.console.is_terminal and where and counts.captioned and not self.config.json:
            resumed = f" ({counts.resumed:,} from earlier runs)" if counts.resumed else ""
            captioned = format_count(counts.captioned, "image")
            self.console.print(
                f"Captioned {captioned}{resumed} with {self.backend}. The captions are in {where}."
            )
            if speed.images:
                self.console.print(
                    f"{speed.images / speed.seconds:.1f} images/s without start-up. The model "
                    f"waited for images {speed.model_waited:.0%} of the time. On average, an image "
                    f"reader waited for the model {speed.readers_waited:.0%} of the time."
                )
