"""A captioning job: images in, rows out, resumable at any moment.

For each image, in input order, the job decides whether its output is kept, its result is taken from
the journal, or it is captioned. Only images of the last kind enter the image loader. All rows are
written in input order.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from captioning.bulk.content import ImageContent
from captioning.bulk.journal import Journal, JournalEntry
from captioning.bulk.rows import (
    Existing,
    RelativeNames,
    describe_kept_caption,
    fail_if_unwritable,
    keep_best,
    keeps_output,
    row_of_result,
    write_row,
)
from captioning.bulk.thumbnails import ThumbnailFolder
from captioning.bulk.writers.base import CaptionRow, Writer
from captioning.decoding import SearchMethod
from captioning.images.image_ref import ImageRef
from captioning.images.loader import ImageLoader, PixelBatch
from captioning.inference.captioner import Captioner
from captioning.inference.results import CaptionResult

_MAX_PENDING = 5_000  # rows in memory that wait for the caption of an earlier image


@dataclass
class JobCounts:
    """Progress of a job, in images."""

    captioned: int = 0
    """Images with a caption, including those of earlier runs."""
    failed: int = 0
    """Images without a caption."""
    resumed: int = 0
    """Images whose caption comes from an earlier run."""
    skipped: int = 0
    """Images whose own output has a caption already."""
    kept_caption: str = ""
    """A sentence that quotes the caption of the first skipped image."""

    @property
    def done(self) -> int:
        """All images that are finished."""
        return self.captioned + self.failed + self.skipped


@dataclass(frozen=True)
class JobSpeed:
    """Speed of a job, and which of its stages waited. Results of earlier runs do not count."""

    images: int = 0
    """Images that were read."""
    seconds: float = 0.0
    """Time since the first image was requested."""
    model_waited: float = 0.0
    """Share of the time in which the model waited for images."""
    readers_waited: float = 0.0
    """Share of the time in which an image reader waited for the model, on average."""


@dataclass(frozen=True)
class JobOutput:
    """Where the results of a job go."""

    writer: Writer
    names: RelativeNames
    """Makes the file names of the rows relative to the output."""
    journal: Journal | None = None
    """None if the output cannot resume (a pipe) or needs no journal (one output per image)."""
    thumbnails: ThumbnailFolder | None = None
    existing: Existing = "keep"
    prefix: str = ""
    suffix: str = ""
    best: bool = False
    """Write only the best caption of each image."""


@dataclass
class _Pending:
    """An image whose row is not written yet."""

    name: str
    """Path relative to the output, which stays the same when both are moved; or a URL."""
    content: ImageContent | None = None
    """None without a journal: a hash of each image takes time."""
    result: CaptionResult | None = None


class _Meter:
    """Adds up the times of batches.

    Args:
        readers: Number of readers of images.
    """

    def __init__(self, readers: int) -> None:
        self._readers = readers
        self._images, self._waited, self._reading = 0, 0.0, 0.0
        self._started = time.monotonic()

    def add(self, batch: PixelBatch) -> None:
        """Add a batch that was loaded."""
        self._images += len(batch.images)
        self._waited += batch.waited
        self._reading += batch.reading

    def speed(self) -> JobSpeed:
        """Return the speed since the start."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        busy = min(1.0, self._reading / (seconds * self._readers))
        return JobSpeed(self._images, seconds, self._waited / seconds, 1 - busy)


class CaptionJob:
    """Captions images and writes their rows.

    Args:
        captioner: The model.
        loader: Loader of the images.
        search: Search method of the decoder.
        output: Writer, journal and thumbnails.
    """

    def __init__(
        self, captioner: Captioner, loader: ImageLoader, search: SearchMethod, output: JobOutput
    ) -> None:
        self.captioner = captioner
        self.loader = loader
        self.search = search
        self.output = output
        self.counts = JobCounts()
        self.speed = JobSpeed()
        self._unwritten: deque[_Pending] = deque()
        self._uncaptioned: deque[_Pending] = deque()  # those of ``_unwritten`` without a result

    def run(self, images: Iterable[ImageRef]) -> Iterator[list[CaptionRow]]:
        """Caption images; yield the rows of each batch after they are written.

        Images are taken in segments, which bounds memory: a segment ends when ``_MAX_PENDING`` rows
        wait, and its last batch is captioned before the next segment begins.

        Args:
            images: The images, in the order of the output.

        Raises:
            OutputError: The journal or the output cannot be written.
        """
        remaining, meter = iter(images), _Meter(self.loader.readers)
        loader = replace(self.loader, on_batch=meter.add)
        for first in remaining:
            segment = self._select_new(chain([first], remaining))
            for batch in self.captioner.caption_batches(segment, loader, search=self.search):
                self._store(batch)
                rows = self._write_finished()
                self.speed = meter.speed()
                yield rows
            yield self._write_finished()

    def _select_new(self, images: Iterator[ImageRef]) -> Iterator[ImageRef]:
        """Yield the images that need a caption; queue all that need a row."""
        for image in images:
            if keeps_output(self.output.writer, image.name, self.output.existing):
                if not self.counts.skipped:
                    writer = self.output.writer
                    self.counts.kept_caption = describe_kept_caption(writer, image.name)
                self.counts.skipped += 1
                continue
            pending = self._look_up(image)
            self._unwritten.append(pending)
            if pending.result is None:
                self._uncaptioned.append(pending)
                yield _request_digest(
                    fail_if_unwritable(self.output.writer, image), pending.content
                )
            if len(self._unwritten) >= _MAX_PENDING:
                return

    def _look_up(self, image: ImageRef) -> _Pending:
        """Return an image with its result of an earlier run, if there is one."""
        journal, thumbnails = self.output.journal, self.output.thumbnails
        pending = _Pending(self.output.names.name_of(image.name))
        if journal is None:
            return pending
        pending.content = content = ImageContent(image)
        if thumbnails is None or thumbnails.has(pending.name):
            pending.result = journal.get(pending.name, content, image.name)
            self.counts.resumed += pending.result is not None
        return pending

    def _store(self, batch: Sequence[CaptionResult]) -> None:
        """Save the thumbnails of new results, then their journal entries."""
        entries = []
        for result in batch:
            pending = self._uncaptioned.popleft()
            if self.output.thumbnails is not None and result.thumbnail:
                self.output.thumbnails.save(pending.name, result.thumbnail)
            pending.result = result
            if pending.content is not None:
                entries.append(JournalEntry(pending.name, pending.content, result))
        if self.output.journal is not None:
            self.output.journal.put(entries)

    def _write_finished(self) -> list[CaptionRow]:
        """Write the rows up to the first image that still waits for its caption."""
        rows = []
        while self._unwritten and (result := self._unwritten[0].result) is not None:
            self._unwritten.popleft()
            row = self._make_row(result)
            rows.append(write_row(self.output.writer, row, self.output.existing))
        self.output.writer.flush()
        self.counts.failed += sum(not row.ok for row in rows)
        self.counts.captioned += sum(row.ok for row in rows)
        return rows

    def _make_row(self, result: CaptionResult) -> CaptionRow:
        output = self.output
        row = row_of_result(result, output.names, prefix=output.prefix, suffix=output.suffix)
        if output.best:
            row = keep_best(row)
        if output.thumbnails is not None and result.ok:
            row = replace(row, thumbnail=output.thumbnails.url_of(row.file_name, result.thumbnail))
        return row


def _request_digest(image: ImageRef, content: ImageContent | None) -> ImageRef:
    """Return the image with a request to compute its digest on reading, for the journal."""
    if content is None or not content.stamp:
        return image
    return replace(image, stamp=content.stamp, on_digest=content.set_digest)
