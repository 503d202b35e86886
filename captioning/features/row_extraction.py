"""Extraction of the rows of images that a store lacks."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Shaped, UInt8
from torch import Tensor

from captioning.errors import OutputError
from captioning.features.cache import StoredRows
from captioning.features.content_digests import digest_images, is_unchanged
from captioning.features.locks import directory_lock
from captioning.features.row_format import RowFormat
from captioning.features.store import RowStore, RowWriter
from captioning.files import find_existing
from captioning.images.image_ref import ImageRef, as_ref
from captioning.images.loader import ImageLoader, PixelBatch
from captioning.messages import explain_error, format_bytes, format_count
from captioning.processes import (
    gather_objects,
    is_main_process,
    main_process_first,
    merge_shares,
    process_count,
    process_index,
    wait_for_processes,
)
from captioning.track import OnProgress

_COMMIT_IMAGES = 256  # lost at most if the process is killed
_CHANGED = "'{}' changed while it was read. Run the same command again."
DerivedRows = tuple[Sequence[bytes], Shaped[Tensor, "B V P D"]]


@dataclass(frozen=True)
class RowSource:
    """What is stored of each image, and how it is computed.

    Attributes:
        key: All that changes the rows. Each key has a store of its own.
        format: Shape and type of the rows.
        loader: Loads the images.
        compute: Returns the rows of images, from pixels and the digests of the images.
        derive: Returns the rows that follow from another store, without the images: of any of the
            given digests.
    """

    key: dict[str, object]
    format: RowFormat
    loader: ImageLoader
    compute: Callable[[UInt8[Tensor, "B 3 S S"], Sequence[bytes]], Shaped[Tensor, "B V P D"]]
    derive: Callable[[Sequence[bytes]], Iterator[DerivedRows]] = lambda digests: iter(())

    def open_store(self, directory: Path) -> RowStore:
        """Return the store of this source in the directory of all stores.

        Raises:
            OSError: The store cannot be read.
        """
        name = hashlib.sha256(json.dumps(self.key).encode()).hexdigest()[:20]
        return RowStore(directory / name, self.format, json.dumps(self.key, indent=2))


class RowExtraction:
    """Images whose rows are looked up in a store, and extracted if they are not stored.

    Args:
        source: What is stored.
        images: The images, in the order of the rows that :meth:`run` returns.
        directory: Directory of all stores, and of the digests of all images.
        on_digest: As ``on_progress`` of :func:`captioning.features.content_digests.digest_images`.

    Raises:
        OutputError: The directory cannot be read.
    """

    def __init__(
        self,
        source: RowSource,
        images: Sequence[ImageRef | Path],
        directory: Path,
        *,
        on_digest: OnProgress = lambda done, total: None,
    ) -> None:
        self.directory = directory
        self.images = [as_ref(image) for image in images]
        self._source = source
        with _explain_errors(directory):
            self._store = source.open_store(directory)
            with main_process_first():  # the others find its digests in the directory
                self._stamps, self._digests = digest_images(self.images, directory, on_digest)

    @property
    def missing(self) -> int:
        """Number of different images that can be read and are not stored."""
        return sum(self._digests[row] is not None for row in self._find_missing())

    @property
    def bytes_needed(self) -> int:
        """Bytes on disk of the rows of missing images."""
        return self.missing * self._source.format.image_bytes

    def remove_damaged(self, on_progress: OnProgress = lambda done, total: None) -> int:
        """Call :meth:`RowStore.remove_damaged` for the images, and return its result.

        Raises:
            OutputError: The store cannot be written.
        """
        with _explain_errors(self.directory):
            removed = self._store.remove_damaged(self._store.find(self._digests), on_progress)
            self._store.refresh()
        return removed

    def run(self, on_progress: OnProgress = lambda done, total: None) -> StoredRows:
        """Return the rows of all images, and extract those that are missing.

        The processes of a job share the missing images. If several jobs need the same store, one of
        them extracts; the others wait and report its progress. Images that cannot be read are tried
        again in each run.

        Args:
            on_progress: Called with the number of finished images and the number of all images:
                before the first missing image, after each batch, and every second while another
                process extracts. Not called if all are stored.

        Raises:
            OutputError: The store cannot be written, or the disk is too small.
        """
        unreadable: dict[int, str] = {}
        with _explain_errors(self.directory):
            if process_count() > 1 and any(gather_objects(bool(self._find_missing()))):
                self._extract_share(on_progress)
            if self._find_missing():
                unreadable = self._extract(on_progress)
            unreadable = merge_shares(unreadable, range(len(self.images)))
            return StoredRows(self._store, self._digests, unreadable)

    def _extract_share(self, on_progress: OnProgress) -> None:
        """Store the missing rows that belong to this process of a job.

        The main process holds the lock, and each process appends to files of its own. What is
        missing afterwards is left to :meth:`_extract`: images that cannot be read, and those of
        other machines if the machines do not share the directory.
        """
        with ExitStack() as stack:
            held = False
            if is_main_process():
                lock = directory_lock(self._store.directory, self._report_waiting(on_progress))
                held = stack.enter_context(lock).held
            held = gather_objects(held)[0]  # the others wait here
            self._store.refresh()
            mine = [row for row in self._find_missing() if self._is_mine(self._digests[row])]
            require_space([self])
            total, count = len(self.images), process_count()

            def report(done: int, all_of_mine: int) -> None:
                on_progress(max(0, total - (total - done) * count), total)

            report(total - len(mine), total)
            with _writer(self._store, shared=held, process=process_index()) as writer:
                self._encode(self._derive(mine, writer, report), writer, report)
            wait_for_processes()
        self._store.refresh()

    def _is_mine(self, digest: bytes | None) -> bool:
        """Return whether this process encodes an image."""
        return digest is not None and int.from_bytes(digest) % process_count() == process_index()

    def _find_missing(self) -> list[int]:
        """Return the first row of each image that is not stored."""
        rows: dict[object, int] = {}
        for row, digest in enumerate(self._digests):
            if digest is None or digest not in self._store:
                rows.setdefault(digest or row, row)
        return list(rows.values())

    def _extract(self, on_progress: OnProgress) -> dict[int, str]:
        """Store the missing rows, and return why images cannot be read."""
        total = len(self.images)
        waiting = self._report_waiting(on_progress)
        with directory_lock(self._store.directory, waiting) as lock:
            self._store.refresh()
            missing = self._find_missing()
            on_progress(total - len(missing), total)
            require_space([self])
            with _writer(self._store, shared=lock.held) as writer:
                missing = self._derive(missing, writer, on_progress)
                errors = self._encode(missing, writer, on_progress)
        self._store.refresh()
        reasons = {self._digests[row] or row: reason for row, reason in errors.items()}
        keys = (digest or row for row, digest in enumerate(self._digests))
        return {row: reasons[key] for row, key in enumerate(keys) if key in reasons}

    def _report_waiting(self, on_progress: OnProgress) -> Callable[[], None]:
        """Return a function that reports the progress of the process that holds the lock."""

        def report() -> None:
            self._store.refresh()
            on_progress(len(self.images) - len(self._find_missing()), len(self.images))

        return report

    def _derive(self, missing: list[int], writer: RowWriter, on_progress: OnProgress) -> list[int]:
        """Store the rows that follow from another store, and return the rows still missing."""
        by_digest = {digest: row for row in missing if (digest := self._digests[row])}
        left = dict.fromkeys(missing)
        for digests, rows in self._source.derive(list(by_digest)):
            writer.append(digests, rows)
            writer.commit()
            for digest in digests:
                del left[by_digest[digest]]
            on_progress(len(self.images) - len(left), len(self.images))
        return list(left)

    def _encode(
        self, missing: Sequence[int], writer: RowWriter, on_progress: OnProgress
    ) -> dict[int, str]:
        """Store the rows of images, and return why some cannot be read, by row."""
        errors: dict[int, str] = {}
        done = 0
        for batch in self._source.loader.batches(self.images[row] for row in missing):
            rows = missing[done : done + len(batch.images)]
            done += len(rows)
            found, errors_here = self._check_batch(batch, rows)
            errors |= errors_here
            if found:
                pixels = batch.pixels[list(found.values())]
                digests = [digest for row in found if (digest := self._digests[row])]
                writer.append(digests, self._source.compute(pixels, digests))
            if writer.uncommitted >= _COMMIT_IMAGES:
                writer.commit()
            on_progress(len(self.images) - len(missing) + done, len(self.images))
        return errors

    def _check_batch(
        self, batch: PixelBatch, rows: Sequence[int]
    ) -> tuple[dict[int, int], dict[int, str]]:
        """Return the number in the batch's pixels of each usable row, and errors by row."""
        usable, errors, number = {}, {}, 0
        for row, error in zip(rows, batch.errors, strict=True):
            number += not error
            if error:
                errors[row] = error
            elif is_unchanged(self.images[row], self._stamps[row], self._digests[row]):
                usable[row] = number - 1
            else:
                errors[row] = _CHANGED.format(self.images[row].name)
        return usable, errors


def describe_space(extractions: Sequence[RowExtraction]) -> str:
    """Return one line on the images of all extractions and the space that missing ones need."""
    images = sum(len(extraction.images) for extraction in extractions)
    missing = sum(extraction.missing for extraction in extractions)
    if not missing:
        return f"Features of {format_count(images, 'image')}: all are stored."
    needed = format_bytes(sum(extraction.bytes_needed for extraction in extractions))
    directory = extractions[0].directory
    return (
        f"Features of {format_count(images, 'image')}: {images - missing:,} stored, {missing:,} "
        f"missing. The missing ones need {needed}; {format_bytes(find_free_bytes(directory))} are "
        f"free in '{directory}'."
    )


def require_space(extractions: Sequence[RowExtraction]) -> None:
    """Check that the rows of all extractions into one directory fit on the disk.

    Raises:
        OutputError: They do not.
    """
    if not (needed := sum(extraction.bytes_needed for extraction in extractions)):
        return
    directory = extractions[0].directory
    if needed > (free := find_free_bytes(directory)):
        images = sum(extraction.missing for extraction in extractions)
        raise OutputError(
            f"the features of {format_count(images, 'image')} need {format_bytes(needed)}, and "
            f"{format_bytes(free)} are free in '{directory}'. Free some space, or use another "
            "cache."
        )


def find_free_bytes(directory: Path) -> int:
    """Return the free bytes of the disk of a directory, which need not exist."""
    return shutil.disk_usage(find_existing(directory)).free


@contextmanager
def _explain_errors(directory: Path) -> Iterator[None]:
    """Raise OutputError for an error of the operating system."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"cannot read or write the cache '{directory}': {explain_error(error)}. Free some "
            "space or use another cache. Images that are stored are not encoded again."
        ) from error


@contextmanager
def _writer(store: RowStore, *, shared: bool, process: int = 0) -> Iterator[RowWriter]:
    """Open a writer that keeps what was written before an error or an interruption."""
    writer = store.open_writer(shared=shared, process=process)
    try:
        yield writer
        writer.commit()
    except BaseException:
        with suppress(OSError):
            writer.commit()
        raise
