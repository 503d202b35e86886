"""Feature store: one row on disk per image, found by the content of the image.

A row holds the stored features (or pixels) of one image: one or more views, which are the whole
image, its mirror image, and crops. A segment is a file of rows and its index, which has a record
with the digest of the image for each row. An entry is the number of a row in all segments together.
"""

import os
import secrets
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, Shaped
from torch import Tensor

from captioning.errors import DataError
from captioning.features.content_digests import DIGEST_BYTES
from captioning.features.records import RecordFile
from captioning.features.row_format import RowFormat
from captioning.files import write_atomic
from captioning.messages import explain_error, format_count
from captioning.track import OnProgress, track

_DESCRIPTION = "store.json"
_SHARED = "features"  # name of the files to which a process that holds the lock appends
_CHECKSUM = np.dtype("<u4")


class _Segment:
    """A file of rows, and the index with the digest of the image of each row.

    Both files only grow. Rows are written before their records in the index, so that rows without
    a record are those of a process that was killed. The next process that writes overwrites them.

    Attributes:
        digests: Digest of the image of each row. None: the record in the index is damaged.
        rows: The rows, mapped from the file.
    """

    def __init__(self, path: Path, row_format: RowFormat) -> None:
        self.path = path.with_suffix(".rows")
        self.format = row_format
        self.index = RecordFile(
            path.with_suffix(".index"), DIGEST_BYTES + row_format.views * _CHECKSUM.itemsize
        )
        written = self.path.stat().st_size if self.path.exists() else 0
        records = self.index.read()[: written // row_format.image_bytes]
        self.digests = [record and record[:DIGEST_BYTES] for record in records]
        shape = (len(records), row_format.views)
        damaged = bytes(self.index.size)
        fields = np.frombuffer(b"".join(record or damaged for record in records), np.uint8)
        self._checksums = np.ascontiguousarray(
            fields.reshape(len(records), self.index.size)[:, DIGEST_BYTES:]
        ).view(_CHECKSUM)
        self._verified = np.zeros(shape, bool)
        self.rows: np.ndarray = (
            np.memmap(self.path, row_format.view_dtype, mode="r", shape=shape)
            if records
            else np.zeros(shape, row_format.view_dtype)
        )

    def find_damaged(self, rows: np.ndarray, views: np.ndarray, packed: np.ndarray) -> np.ndarray:
        """Return which views do not have the checksum of their record; each is checked once.

        Args:
            rows: Row of each view.
            views: Index of each view in its row.
            packed: The views, read from the file.
        """
        new = np.flatnonzero(~self._verified[rows, views])
        found = np.array([_checksum(packed[number]) for number in new], _CHECKSUM)
        good = found == self._checksums[rows[new], views[new]]
        self._verified[rows[new], views[new]] = good
        return new[~good]


class RowWriter:
    """Appends rows to a segment of a store.

    Args:
        segment: The segment. No other process may append to it.
        description: Text that is written into the directory of the segment.
    """

    def __init__(self, segment: _Segment, description: str) -> None:
        self._description = description
        self._segment = segment
        self._count = len(segment.digests)
        self._pending: list[bytes] = []

    @property
    def uncommitted(self) -> int:
        """Number of images whose rows are lost if the process is killed."""
        return len(self._pending)

    def append(self, digests: Sequence[bytes], rows: Shaped[Tensor, "B V P D"]) -> None:
        """Write the rows of images.

        Raises:
            OSError: The rows cannot be written. They are not part of the store.
        """
        path = self._segment.path
        if not path.exists():
            write_atomic(path.with_name(_DESCRIPTION), self._description)  # creates the folder
        packed = self._segment.format.pack(rows)
        end = self._count + len(self._pending)
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.seek(end * self._segment.format.image_bytes)
            file.write(np.ascontiguousarray(packed).tobytes())
        for digest, image in zip(digests, packed, strict=True):
            checksums = np.array([_checksum(view) for view in image], _CHECKSUM)
            self._pending.append(digest + checksums.tobytes())

    def commit(self) -> None:
        """Flush the written rows to disk, and add them to the index.

        Raises:
            OSError: They cannot be written.
        """
        if not self._pending:
            return
        with self._segment.path.open("r+b") as file:
            os.fsync(file.fileno())
        self._segment.index.append(self._pending, after=self._count)
        self._count += len(self._pending)
        self._pending = []


class RowStore:
    """The rows in one directory, found by the digest of the content of an image.

    Entries stay valid until :meth:`refresh`.

    Args:
        directory: Directory of rows of one format. It need not exist.
        row_format: Shape and type of the rows.
        description: Text for people who look into the directory.

    Raises:
        OSError: The directory cannot be read.
    """

    def __init__(self, directory: Path, row_format: RowFormat, description: str = "") -> None:
        self.directory = directory
        self.format = row_format
        self._description = description
        self.refresh()

    def refresh(self) -> None:
        """Read the index again, which other processes may have extended.

        Raises:
            OSError: The directory cannot be read.
        """
        names = sorted({_SHARED, *(path.stem for path in self.directory.glob("*.index"))})
        self._segments = [_Segment(self.directory / name, self.format) for name in names]
        self._starts = np.cumsum([0, *(len(segment.digests) for segment in self._segments)])
        self._entries: Mapping[bytes, int] = {
            digest: entry
            for entry, digest in enumerate(d for segment in self._segments for d in segment.digests)
            if digest is not None
        }

    def __contains__(self, digest: bytes | None) -> bool:
        return digest in self._entries

    def find(self, digests: Sequence[bytes | None]) -> Int[np.ndarray, " N"]:
        """Return the entry of each digest; -1 for images that are not stored."""
        found = [-1 if digest is None else self._entries.get(digest, -1) for digest in digests]
        return np.array(found, np.int64)

    def read(
        self, entries: Int[np.ndarray, " B"], views: Int[np.ndarray, " B"]
    ) -> Shaped[Tensor, "B P D"]:
        """Return one view of each entry: features as float32, pixels as uint8.

        An entry of -1 gives zeros. The checksum of each view is checked when it is read first.

        Args:
            entries: Entries, as :meth:`find` returns them.
            views: Index of the view to read, for each entry.

        Raises:
            DataError: Stored rows are damaged. They are removed if the store can be written.
        """
        packed = np.zeros(len(entries), self.format.view_dtype)
        if self._gather(entries, views, packed):
            try:
                damaged = self.remove_damaged(np.arange(self._starts[-1]))
            except OSError as error:
                raise DataError(
                    f"stored features in '{self.directory}' are damaged and cannot be removed: "
                    f"{explain_error(error)}. Use another cache, or ask its owner to run "
                    "captioning features --check-stored."
                ) from error
            raise DataError(
                f"the stored features of {format_count(damaged, 'image')} in '{self.directory}' "
                "are damaged and were removed. Run the same command again: it encodes these "
                "images again."
            )
        return self.format.unpack(packed)

    def _gather(self, entries: np.ndarray, views: np.ndarray, packed: np.ndarray) -> bool:
        """Copy views into ``packed``, and return whether one of them is damaged."""
        owner = np.searchsorted(self._starts, entries, side="right") - 1
        damaged = False
        for number, segment in enumerate(self._segments):
            own = np.flatnonzero((owner == number) & (entries >= 0))
            if len(own):
                rows = entries[own] - self._starts[number]
                packed[own] = segment.rows[rows, views[own]]
                damaged |= len(segment.find_damaged(rows, views[own], packed[own])) > 0
        return damaged

    def remove_damaged(
        self,
        entries: Int[np.ndarray, " B"],
        on_progress: OnProgress = lambda done, total: None,
    ) -> int:
        """Check the checksums of entries, and remove damaged ones from the index.

        Entries of -1 are ignored. Call :meth:`refresh` afterwards.

        Args:
            entries: The entries.
            on_progress: Called with the number of checked entries and the number of all, for each
                file of the store.

        Returns:
            The number of images that were removed.

        Raises:
            OSError: The index cannot be written.
        """
        entries = np.unique(entries)
        removed = 0
        views = np.arange(self.format.views)
        for number, segment in enumerate(self._segments):
            rows = entries[(entries >= self._starts[number]) & (entries < self._starts[number + 1])]
            rows = [row for row in rows - self._starts[number] if segment.digests[row]]
            bad = [
                row
                for row in track(rows, on_progress)
                if len(segment.find_damaged(np.full(len(views), row), views, segment.rows[row]))
            ]
            if bad:
                segment.index.erase(bad)
            removed += len(bad)
        return removed

    def open_writer(self, *, shared: bool, process: int = 0) -> RowWriter:
        """Return a writer that appends rows.

        Args:
            shared: Append to files that later writers use too; the caller, or the main process of
                its job, holds the lock. False: append to new files, for file systems without locks.
            process: Index of the process in its job, which selects the shared files.
        """
        own = f"{process}" * (process > 0) if shared else secrets.token_hex(4)
        name = f"{_SHARED}-{own}" if own else _SHARED
        return RowWriter(_Segment(self.directory / name, self.format), self._description)


def _checksum(view: np.ndarray | np.void) -> int:
    return zlib.crc32(view.tobytes())
