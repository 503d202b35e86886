"""What a run on a cluster reports: progress, failures, and its end."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from captioning.cli.caption_config import CaptionConfig
from captioning.cli.progress import progress_bar
from captioning.messages import escape_unprintable, format_count
from captioning.sources.skipped import SkippedCounts

if TYPE_CHECKING:
    from rich.console import Console

    from captioning.bulk.cluster.actors import RunSpec

_LINE_INTERVAL = 30.0  # seconds between two lines of progress
_LISTED_FAILURES = 20


@dataclass
class ClusterCounts:
    """Counts of the images of some partitions."""

    captioned: int = 0
    failed: int = 0
    skipped: int = 0
    """Images that are left out, because they are too small or duplicates."""
    partitions: int = 0
    reasons: list[str] = field(default_factory=list)
    """Reasons of the first failures."""
    actors: set[str] = field(default_factory=set)

    @property
    def images(self) -> int:
        """All images with a row."""
        return self.captioned + self.failed + self.skipped

    def add(self, counts: Mapping[str, Any]) -> None:
        """Add the counts of a partition."""
        self.captioned += counts["captioned"]
        self.failed += counts["failed"]
        self.skipped += counts["skipped"]
        self.partitions += 1
        self.reasons += list(counts["reasons"])[: _LISTED_FAILURES - len(self.reasons)]
        if "actor" in counts:
            self.actors.add(counts["actor"])


class ClusterReport:
    """Reports on a run.

    Args:
        config: The flags.
        console: Console of standard error.
        ignored: What the search for images skipped.
        earlier: Counts of the partitions that earlier runs have completed.
        partitions: Number of all partitions.
    """

    def __init__(
        self,
        config: CaptionConfig,
        console: "Console",
        ignored: SkippedCounts,
        earlier: ClusterCounts,
        partitions: int,
    ) -> None:
        self.config, self.console, self.ignored = config, console, ignored
        self.earlier, self.partitions = earlier, partitions
        self.new = ClusterCounts()
        self._captioning = 0.0  # seconds, without start-up

    def track(self, partitions: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """Yield the counts of partitions, add them up, and show the progress.

        On a terminal it is a bar. Otherwise a line is printed at intervals.
        """
        printed, started = time.monotonic(), 0.0
        with progress_bar(self.console, unit="images/s") as bar:
            task = bar.add_task("captioning", total=None)
            for counts in partitions:
                now = time.monotonic()
                started = started or now - counts["seconds"]
                self._captioning = now - started
                self.new.add(counts)
                total = round(self.new.images / self._share())  # partitions may differ in size
                bar.update(
                    task,
                    completed=self.new.images,
                    total=total,
                    description=f"captioning ({self._facts()})",
                )
                if not self.console.is_terminal and now - printed >= _LINE_INTERVAL:
                    printed = now
                    left = timedelta(seconds=round(self._captioning * (1 / self._share() - 1)))
                    done = f"{self.new.images:,} of about {format_count(total, 'image')}"
                    rate = f"{self._rate():.0f} images/s"
                    self.console.print(f"{done} ({self._facts()}), {rate}, {left} left.")
                yield counts

    def print_end(self, spec: "RunSpec", signal: int, seconds: float) -> int:
        """Print the end of the run, and return its exit code.

        Args:
            spec: The run.
            signal: The signal that stopped the run; 0 if it was not stopped.
            seconds: Duration of the run.
        """
        counts = self._total()
        for notice in self.ignored.notices(complete=self.config.limit is None):
            self.console.print(notice)
        self._print_failures(counts, spec.folder.url)
        if counts.skipped:
            skipped = format_count(counts.skipped, "image")
            self.console.print(f"{skipped} have no caption: too small, or duplicates.")
        if self.config.json:
            print(json.dumps(self._summary(counts, spec, bool(signal), seconds)))  # noqa: T201
        if signal:
            done = format_count(counts.images, "image")
            self.console.print(
                f"captioning: interrupted; {done} in complete partitions. To resume, run the same "
                f"command{' without --overwrite' if self.config.overwrite else ''}."
            )
            return 128 + signal
        if self.console.is_terminal and not self.config.json:
            earlier = self.earlier.captioned
            resumed = f" ({earlier:,} from earlier runs)" if earlier else ""
            captioned = format_count(counts.captioned, "image")
            self.console.print(
                f"Captioned {captioned}{resumed}. The captions are in {spec.folder.url}."
            )
        return 1 if counts.failed else 0

    def _share(self) -> float:
        """Return the share of this run's partitions that are complete."""
        return self.new.partitions / (self.partitions - self.earlier.partitions)

    def _facts(self) -> str:
        return f"{self.new.failed:,} failed, {format_count(len(self.new.actors), 'actor')}"

    def _rate(self) -> float:
        return self.new.images / self._captioning if self._captioning else 0.0

    def _total(self) -> ClusterCounts:
        new, earlier = self.new, self.earlier
        return ClusterCounts(
            new.captioned + earlier.captioned,
            new.failed + earlier.failed,
            new.skipped + earlier.skipped,
            new.partitions + earlier.partitions,
            (earlier.reasons + new.reasons)[:_LISTED_FAILURES],
            new.actors,
        )

    def _print_failures(self, counts: ClusterCounts, place: str) -> None:
        if not counts.failed:
            return
        images = format_count(counts.images, "image")
        self.console.print(f"{counts.failed:,} of {images} could not be captioned:")
        for reason in counts.reasons:
            self.console.print(f"  {escape_unprintable(reason)}")
        if others := counts.failed - len(counts.reasons):
            self.console.print(f"  ... and {others:,} more (see the output)")
        self.console.print(
            f"To try them again: the same command with --skip-rows-of {place} and another -o."
        )

    def _summary(
        self, counts: ClusterCounts, spec: "RunSpec", interrupted: bool, seconds: float
    ) -> dict[str, Any]:
        return {
            "captioned": counts.captioned,
            "failed": counts.failed,
            "skipped_images": counts.skipped,
            "from_earlier_runs": self.earlier.images,
            "partitions": self.partitions,
            "complete_partitions": counts.partitions,
            "skipped_files": self.ignored.files.total(),
            "interrupted": interrupted,
            "seconds": round(seconds, 3),
            "images_per_second": round(self._rate(), 3),
            "actors": len(counts.actors),
            "made_by": dict(spec.rows.made_by),
            "output": spec.folder.url,
        }
