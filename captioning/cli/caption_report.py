"""What ``captioning caption`` reports: plan, progress, failures, and the end of a run."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from captioning.bulk.writers.base import CaptionRow
from captioning.bulk.writers.registry import writes_per_image
from captioning.cli.caption_config import CaptionConfig, paths_without_files, resolve_format
from captioning.cli.progress import count_in_background, progress_bar
from captioning.files import is_special_file
from captioning.messages import escape_unprintable, format_count
from captioning.sources.image_names import SkippedCounts

if TYPE_CHECKING:  # importing torch takes seconds, and --help does not need it
    from captioning.bulk.job import JobCounts

_LISTED_FAILURES = 20


def print_plan(config: CaptionConfig, images: Iterable[object], ignored: SkippedCounts) -> int:
    """Print what the run would do, and return the exit code."""
    format_name = resolve_format(config)
    total = format_count(sum(1 for _ in images), "image")
    next_to_images = "files next to the images" if writes_per_image(format_name) else None
    where = config.output or next_to_images or "standard output"
    print(f"Would caption {total} as {format_name} into {where}.")  # noqa: T201
    if ignored.files:
        print(f"Would ignore {format_count(ignored.files, 'other file')}.")  # noqa: T201
    return 0


@contextmanager
def show_progress(
    config: CaptionConfig, console: Console, iterate: Callable[[], Iterable[object]]
) -> "Iterator[Callable[[JobCounts], None]]":
    """Show a progress bar; yield the callback that updates it.

    Args:
        config: Decides whether the bar has a total.
        console: Console of standard error.
        iterate: Returns the images once more, to count them.
    """
    rows_on_terminal = (
        config.output is None
        and not writes_per_image(resolve_format(config))
        and sys.stdout is not None
        and sys.stdout.isatty()
    )
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


class RunReport:
    """Collects the failures of a run, and prints its end.

    Attributes:
        missing: Images of earlier runs that the output does not contain this time.

    Args:
        config: Config of the run.
        console: Console of standard error.
        ignored: Number of input files that are not images.
    """

    def __init__(self, config: CaptionConfig, console: Console, ignored: SkippedCounts) -> None:
        self.config = config
        self.console = console
        self.ignored = ignored
        self.missing = 0
        self._failures: list[CaptionRow] = []

    def add_failures(self, rows: Sequence[CaptionRow]) -> None:
        """Keep the first failed rows, to list them at the end."""
        free = _LISTED_FAILURES - len(self._failures)
        self._failures += [row for row in rows if not row.ok][:free]

    def print_end(self, counts: "JobCounts", signal: int, seconds: float) -> int:
        """Print the end of the run, and return its exit code.

        Args:
            counts: Numbers of images.
            signal: The signal that stopped the run; 0 if it came to its end.
            seconds: Duration of the run.
        """
        self._print_skipped(counts)
        self._print_failures(counts)
        if self.config.json:
            summary = self._summary(counts, bool(signal), seconds)
            print(summary, file=sys.stdout if self.config.output else sys.stderr)
        if signal:
            self._print_interrupted(counts)
            return 128 + signal
        self._print_location(counts)
        return 1 if counts.failed else 0

    def _print_skipped(self, counts: "JobCounts") -> None:
        if self.ignored.files:
            files = format_count(self.ignored.files, "file")
            self.console.print(f"Ignored {files}: hidden, or not an image by file extension.")
        if counts.skipped:
            self.console.print(
                f"Skipped {format_count(counts.skipped, 'image')} with existing captions. "
                "Use --overwrite to replace them, or --append to add to them."
            )
        if self.missing:
            self.console.print(
                f"{format_count(self.missing, 'image')} captioned by earlier runs into this file "
                "were not given this time, and have no rows. Give them too to restore their rows."
            )

    def _print_failures(self, counts: "JobCounts") -> None:
        if not counts.failed:
            return
        total = format_count(counts.captioned + counts.failed, "image")
        self.console.print(f"{counts.failed:,} of {total} could not be captioned:")
        for row in self._failures:
            self.console.print(f"  {escape_unprintable(row.error)}")
        if counts.failed > len(self._failures):
            others = counts.failed - len(self._failures)
            self.console.print(f"  ... and {others:,} more (see the output)")

    def _summary(self, counts: "JobCounts", interrupted: bool, seconds: float) -> str:
        new = counts.captioned + counts.failed - counts.resumed
        return json.dumps(
            {
                "captioned": counts.captioned,
                "failed": counts.failed,
                "from_earlier_runs": counts.resumed,
                "skipped": counts.skipped,
                "ignored_files": self.ignored.files,
                "interrupted": interrupted,
                "seconds": round(seconds, 3),
                "images_per_second": round(new / seconds, 3) if seconds else None,
                "output": None if self.config.output is None else str(self.config.output),
            }
        )

    def _print_interrupted(self, counts: "JobCounts") -> None:
        config = self.config
        stream = config.output is None or is_special_file(config.output)
        advice = ""
        if writes_per_image(resolve_format(config)) or not stream:
            without = " without --overwrite" if config.overwrite else ""
            advice = f" To resume, run the same command{without}."
        done = format_count(counts.done, "image")
        self.console.print(f"captioning: interrupted after {done}.{advice}")

    def _print_location(self, counts: "JobCounts") -> None:
        """Name the output on a terminal; scripts read the exit code."""
        config = self.config
        format_name = resolve_format(config)
        where = ""
        if config.output is not None and not is_special_file(config.output):
            where = f"in {config.output}"
        elif config.output is None and writes_per_image(format_name):
            where = "in the images" if format_name == "embed" else "next to the images"
        if not (self.console.is_terminal and where and counts.captioned) or config.json:
            return
        resumed = f" ({counts.resumed:,} from earlier runs)" if counts.resumed else ""
        captioned = format_count(counts.captioned, "image")
        self.console.print(f"Captioned {captioned}{resumed}. The captions are {where}.")
