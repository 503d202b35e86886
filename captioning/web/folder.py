"""A folder of images on the page: captions with progress, corrections, and files of captions."""

import asyncio
import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from captioning.bulk.content import ImageContent
from captioning.bulk.convert import check_new_output, write_image_outputs, write_rows
from captioning.bulk.journal import START_AGAIN, Journal, JournalEntry
from captioning.bulk.resume import run_settings
from captioning.bulk.rows import RelativeNames, keep_best, row_of_result
from captioning.bulk.writers.base import CaptionRow
from captioning.bulk.writers.registry import open_writer, writes_per_image
from captioning.errors import ConfigError, OutputError
from captioning.images.image_ref import ImageRef
from captioning.images.loader import ImageLoader
from captioning.inference.results import CaptionResult
from captioning.web.corrections import Corrections
from captioning.web.service import CaptionService
from captioning.web.uploads import SearchRequest

JOURNAL_NAME = ".captioning-web.journal"
_AHEAD = 2  # batches of images that are read while the model captions one
SaveFormat = Literal["jsonl", "csv", "txt", "caption", "xmp"]
State = Literal["all", "captioned", "corrected", "failed", "waiting"]


class FileExistsAlreadyError(ConfigError):
    """A file of captions exists; the request may be repeated with ``overwrite``."""


@dataclass(frozen=True)
class FolderRow:
    """An image of the folder as the page shows it."""

    id: int
    """Number of the image: names may hold characters that a URL cannot."""
    file_name: str
    caption: str = ""
    """The corrected caption, or that of the model; empty if there is none yet."""
    generated: str = ""
    """The caption of the model."""
    corrected: bool = False
    error: str = ""

    @property
    def state(self) -> State:
        """What has happened to the image."""
        if self.error:
            return "failed"
        if self.corrected:
            return "corrected"
        return "captioned" if self.caption else "waiting"


@dataclass(frozen=True)
class SaveRequest:
    """What to save, and how."""

    format: SaveFormat
    corrected_only: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class SaveResult:
    """Numbers of images whose captions were written, kept as they were, or could not be written.

    Attributes:
        output: The file, or the folder of the files.
    """

    output: str
    written: int
    kept: int = 0
    failed: int = 0
    error: str = ""


class FolderSession:
    """The images of a folder, their captions, and the corrections.

    Captions are kept in a journal and corrections in a file, both in the output folder, so that a
    later session continues. All methods are called from the event loop.

    Args:
        service: Captions the images.
        images: The images.
        output: Folder of the journal, the corrections and the saved captions.

    Raises:
        OutputError: The journal or the corrections cannot be read or written, or another session
            uses them.
    """

    def __init__(self, service: CaptionService, images: Iterable[ImageRef], output: Path) -> None:
        self.service = service
        self.output = output
        self.error = ""
        self.names = RelativeNames(output / "captions.jsonl")
        self.images = tuple(images)
        self.file_names = tuple(self.names.name_of(image.name) for image in self.images)
        self.corrections = Corrections(output)
        self.results: dict[int, CaptionResult] = {}
        self._task: asyncio.Task[None] | None = None
        self._writing = threading.Lock()
        self._journal = self._open_journal()
        for index, image in enumerate(self.images if self._journal.resumed else ()):
            result = self._journal.get(self.file_names[index], ImageContent(image), image.name)
            if result is not None:
                self.results[index] = result

    def _open_journal(self) -> Journal:
        captioner = self.service.captioner
        loader = ImageLoader(captioner.generator.preprocessing)
        settings = run_settings(captioner, loader, self.service.search, None)
        path = self.output / JOURNAL_NAME
        try:
            return Journal(path, settings)
        except ConfigError:  # captions of another model or search
            return Journal(path, settings, restart=True)
        except OutputError as error:
            reason = str(error).replace(START_AGAIN, "Delete it to start again.")
            raise OutputError(reason) from error

    @property
    def running(self) -> bool:
        """Whether images are being captioned."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Caption the images that have no caption yet."""
        if not self.running:
            self.error = ""
            self._task = asyncio.get_running_loop().create_task(self._caption_all())

    async def stop(self) -> None:
        """Stop captioning; the results so far stay."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def close(self) -> None:
        """Stop, and close the journal."""
        await self.stop()
        self._journal.close()

    async def _caption_all(self) -> None:
        waiting = iter([i for i in range(len(self.images)) if not self._is_done(i)])

        async def work() -> None:
            for index in waiting:  # the tasks take their images from one iterator
                await self._caption_image(index)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_AHEAD * self.service.limits.batch_size):
                    group.create_task(work())
        except* Exception as errors:
            logging.getLogger(__name__).exception("captioning of the folder has stopped")
            self.error = str(errors.exceptions[0])

    def _is_done(self, index: int) -> bool:
        return index in self.results and self.results[index].ok

    async def _caption_image(self, index: int) -> None:
        image = self.images[index]
        content = ImageContent(image)
        if content.stamp:  # computed while the image is read: the journal needs no second read
            image = replace(image, stamp=content.stamp, on_digest=content.set_digest)
        result = await self.service.caption_one(image, SearchRequest(self.service.search))
        self._journal.put([JournalEntry(self.file_names[index], content, result)])
        self.results[index] = result

    def correct(self, index: int, text: str) -> FolderRow:
        """Store a corrected caption; an empty one, or that of the model, removes the correction.

        Raises:
            ConfigError: The caption is too long.
            OutputError: The correction cannot be stored.
        """
        generated = self.row(index).generated
        is_same = " ".join(text.split()) == generated
        self.corrections.set(self.file_names[index], "" if is_same else text)
        return self.row(index)

    def row(self, index: int) -> FolderRow:
        """Return one image as the page shows it."""
        file_name, result = self.file_names[index], self.results.get(index)
        corrected = self.corrections.get(file_name)
        generated = "" if result is None else result.text
        error = "" if result is None or corrected else result.error
        caption = corrected or generated
        return FolderRow(index, file_name, caption, generated, bool(corrected), error)

    def find(self, text: str = "", state: State = "all") -> list[FolderRow]:
        """Return the images in the given state whose name or caption contains ``text``."""
        wanted = text.casefold()
        return [
            row
            for row in map(self.row, range(len(self.images)))
            if state in ("all", row.state)
            if not wanted or wanted in f"{row.file_name}\n{row.caption}".casefold()
        ]

    def save(self, request: SaveRequest) -> SaveResult:
        """Write captions to files, by the writers of ``captioning caption``.

        Raises:
            FileExistsAlreadyError: The file exists, and ``overwrite`` is False.
            ConfigError: There are no captions.
            OutputError: The file cannot be written.
        """
        with self._writing:
            rows = list(self._rows_to_save(corrected_only=request.corrected_only))
            if not any(row.ok for row in rows):
                if request.corrected_only:
                    raise ConfigError("there is no corrected caption to save. Correct one first.")
                raise ConfigError("there is no caption to save. Caption the images first.")
            if writes_per_image(request.format):
                return self._save_per_image(rows, request)
            output = self.output / f"captions.{request.format}"
            if output.exists() and not request.overwrite:
                reason = f"'{output}' exists. Replace it, or choose another format."
                raise FileExistsAlreadyError(reason)
            check_new_output(output, [self.corrections.path], overwrite=True)
            counts = write_rows(lambda: rows, request.format, output)
            return SaveResult(str(output), counts.captioned, failed=counts.failed)

    def _rows_to_save(self, *, corrected_only: bool) -> Iterator[CaptionRow]:
        for index, (image, name) in enumerate(zip(self.images, self.file_names, strict=True)):
            if text := self.corrections.get(name):
                yield CaptionRow(image.name, name, (text,), (None,))
            elif index in self.results and not corrected_only:
                yield keep_best(row_of_result(self.results[index], self.names))

    def _save_per_image(self, rows: Sequence[CaptionRow], request: SaveRequest) -> SaveResult:
        existing: Literal["keep", "replace"] = "replace" if request.overwrite else "keep"
        with open_writer(request.format, None) as writer:
            done = list(
                write_image_outputs(
                    [row for row in rows if row.ok], writer, existing, accept_non_files=False
                )
            )
        written = [row for row in done if row is not None]
        errors = [row.error for row in written if not row.ok]
        return SaveResult(
            f"*.{request.format} next to the images",
            len(written) - len(errors),
            kept=len(done) - len(written),
            failed=len(errors),
            error=errors[0] if errors else "",
        )
