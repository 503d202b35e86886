"""Files of small records that only grow; each record has its own checksum."""

import os
import zlib
from collections.abc import Iterable
from pathlib import Path

_CHECKSUM_BYTES = 4


class RecordFile:
    """Records of a fixed size. A damaged or incomplete record is ignored.

    Args:
        path: The file, which need not exist.
        size: Bytes of a record without its checksum.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self.record_bytes = size + _CHECKSUM_BYTES

    def read(self) -> list[bytes | None]:
        """Return all records; None in place of a damaged one.

        Raises:
            OSError: The file exists but cannot be read.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        ends = range(self.record_bytes, len(content) + 1, self.record_bytes)
        records = (content[end - self.record_bytes : end] for end in ends)
        return [
            record[: self.size] if record == _add_checksum(record[: self.size]) else None
            for record in records
        ]

    def append(self, records: Iterable[bytes], *, after: int | None = None) -> None:
        """Append records, and flush them to disk. Only one process may append at a time.

        Args:
            records: The new records.
            after: Number of records to keep. None keeps all; an incomplete one is removed.

        Raises:
            OSError: The records cannot be written.
        """
        with self.path.open("ab") as file:
            complete = file.tell() // self.record_bytes
            file.truncate(self.record_bytes * min(complete, complete if after is None else after))
            file.write(b"".join(map(_add_checksum, records)))
            file.flush()
            os.fsync(file.fileno())

    def erase(self, positions: Iterable[int]) -> None:
        """Overwrite records, so that they are read as damaged.

        Raises:
            OSError: The file cannot be written.
        """
        with self.path.open("r+b") as file:
            for position in positions:
                file.seek(position * self.record_bytes)
                file.write(bytes(self.record_bytes))


def _add_checksum(record: bytes) -> bytes:
    return record + zlib.crc32(record).to_bytes(_CHECKSUM_BYTES, "little")
