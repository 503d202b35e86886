"""The journal of a run: the results so far, on disk, so that a killed run can resume.

A journal is an SQLite file next to the output, for example ``.captions.jsonl.journal``. Each batch
of results is one transaction. After a crash, a power cut or a full disk the journal therefore
holds whole batches only. The output is written in input order from the journal and from new
results, so it does not depend on interruptions. An image is recognized by its content: an image
whose content has changed is captioned again; one that was only copied, renamed or touched is not. A
run with other settings or another model cannot resume.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from captioning.bulk.content import ImageContent, digest_output, is_present
from captioning.errors import ConfigError, OutputError
from captioning.inference.results import Caption, CaptionResult
from captioning.messages import describe_differences

_FORMAT = 1
_MAX_OUTPUTS = 20  # outputs whose digests are kept, because a backup may restore an older one
_APPLICATION_ID = 0x43415054  # "CAPT" distinguishes a journal from other SQLite files
_DAMAGE_MESSAGES = ("not a database", "malformed", "no such table", "no such column")
START_AGAIN = "Use --overwrite to start again, or another -o."
"""Advice in errors of a journal that cannot be used."""
_RESUME = (
    "Free some space, or make the file writable. Then run the same command; it continues after the "
    "last finished batch."
)
# ``stamp`` is the size and the times of the file; see ImageContent.
_TABLES = """
CREATE TABLE metadata (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE results (
    image BLOB PRIMARY KEY, size INTEGER, stamp TEXT, digest TEXT, result TEXT
) WITHOUT ROWID;
CREATE INDEX results_by_content ON results (size, digest);
"""


@dataclass(frozen=True)
class JournalEntry:
    """The result of one image."""

    image: str
    """Path of the image relative to the folder of the journal, or its URL."""
    content: ImageContent
    result: CaptionResult


def journal_path(output: Path) -> Path:
    """Return the path of the journal of an output."""
    return output.with_name(f".{output.name}.journal")


class Journal:
    """Results and metadata of one run.

    Only one process at a time can have it open, and only one thread at a time may use it.

    Attributes:
        resumed: Whether an earlier run has created the journal.

    Args:
        path: Path of the journal; created if it does not exist.
        settings: Everything that decides the caption of an image, as values that JSON can store.
        restart: Delete the results of earlier runs.

    Raises:
        ConfigError: The journal was created with other settings; the message names them.
        OutputError: The journal cannot be opened, is not a journal, or another run uses it.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, restart: bool = False) -> None:
        self.path = path
        self.resumed = path.exists() and not restart
        if path.exists() and not path.is_file():
            raise OutputError(
                f"'{path}' is not a file, but the run needs this name for its journal. Remove it, "
                "or use another -o."
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connect(restart)
            try:
                if not self.metadata():
                    self.set_metadata(format=_FORMAT, settings=dict(settings))
                self._check(settings)
            except BaseException:
                self.close()
                raise
        except (sqlite3.Error, OSError) as error:
            self._fail(error)

    def _connect(self, restart: bool) -> None:
        self._database = sqlite3.connect(
            self.path, isolation_level=None, timeout=1, check_same_thread=False
        )
        try:
            self._prepare()
            if restart:  # another run may hold the file, so it is emptied instead of deleted
                self._database.executescript(
                    "BEGIN IMMEDIATE; DELETE FROM metadata; DELETE FROM results; COMMIT;"
                )
        except sqlite3.DatabaseError as error:
            self._database.close()
            if not restart or "locked" in str(error):
                raise
            self.path.unlink()  # a damaged journal
            self._connect(restart=False)
        except BaseException:
            self._database.close()
            raise

    def _prepare(self) -> None:
        for setting in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL"):
            self._database.execute(f"PRAGMA {setting}")
        (application_id,) = self._database.execute("PRAGMA application_id").fetchone()
        tables = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application_id == 0 and not tables:
            self._database.executescript(
                f"BEGIN IMMEDIATE; PRAGMA application_id = {_APPLICATION_ID}; {_TABLES} COMMIT;"
            )
        elif application_id != _APPLICATION_ID:
            raise OutputError(f"'{self.path}' is a database of another program. Use another -o.")

    def _check(self, settings: Mapping[str, Any]) -> None:
        metadata = self.metadata()
        previous = metadata.get("settings")
        if metadata.get("format") != _FORMAT or not isinstance(previous, dict):
            raise OutputError(f"{self.path} was written by another version. {START_AGAIN}")
        current = json.loads(json.dumps(dict(settings)))
        if previous == current:
            return
        raise ConfigError(
            f"cannot resume the run in {self.path}, because its settings differ: "
            f"{describe_differences(previous, current)}. Use the same settings to resume. "
            f"{START_AGAIN}"
        )

    def metadata(self) -> dict[str, Any]:
        """Return the settings and the state of the run."""
        rows = self._database.execute("SELECT name, value FROM metadata").fetchall()
        return _parse_metadata(rows, self.path)

    def set_metadata(self, **values: Any) -> None:
        """Store values that JSON can represent.

        Raises:
            OutputError: The journal cannot be written.
        """
        rows = [(name, json.dumps(value)) for name, value in values.items()]
        self._write("INSERT OR REPLACE INTO metadata VALUES (?, ?)", rows)

    def get(self, image: str, content: ImageContent, source: str) -> CaptionResult | None:
        """Return the result of an image; None if there is none for its content.

        A journal that this run has created always returns None.

        Args:
            image: See :class:`JournalEntry`.
            content: Content of the image.
            source: Name of the image in the result.
        """
        if not self.resumed:
            return None
        query = "SELECT stamp, digest, result FROM results WHERE image = ?"
        if row := self._query(query, os.fsencode(image)):
            if content.stamp and content.stamp == row[0]:
                return _decode_result(source, row[2])
            if content.digest is not None and content.digest == row[1]:
                return self._move(image, image, content, _decode_result(source, row[2]))
        # Without a stored image of this size, the image is new, and its digest is not needed.
        if content.size < 0 or not self._query(
            "SELECT 1 FROM results WHERE size = ?", content.size
        ):
            return None
        query = "SELECT image, result FROM results WHERE size = ? AND digest = ?"
        if row := self._query(query, content.size, content.digest):
            return self._move(os.fsdecode(row[0]), image, content, _decode_result(source, row[1]))
        return None

    def _query(self, query: str, *values: bytes | str | int | None) -> tuple[Any, ...] | None:
        """Return the first row of a query."""
        try:
            return self._database.execute(query, values).fetchone()
        except sqlite3.Error as error:
            self._fail(error)

    def _move(
        self, old: str, image: str, content: ImageContent, result: CaptionResult | None
    ) -> CaptionResult | None:
        """Store a result under the present name and times of its image."""
        if result is not None and (content.stamp or old != image):
            self.put([JournalEntry(image, content, result)])
            if old != image and self._is_moved(old, image):
                self._write("DELETE FROM results WHERE image = ?", [(os.fsencode(old),)])
        return result

    def _is_moved(self, old: str, image: str) -> bool:
        """Return whether ``old`` is gone, or is the same file because the journal was moved."""
        old, image = (os.path.join(self.path.parent, name) for name in (old, image))  # noqa: PTH118
        return not is_present(old) or os.path.realpath(old) == os.path.realpath(image)

    def put(self, entries: Iterable[JournalEntry]) -> None:
        """Store results in one transaction; those without a caption are left out.

        Raises:
            OutputError: The journal cannot be written, for example because the disk is full.
        """
        rows = [
            (os.fsencode(entry.image), *entry.content.key, _encode_result(entry.result))
            for entry in entries
            if entry.result.ok  # failed images are tried again: a server may answer next time
        ]
        self._write("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?)", rows)

    def add_output(self, path: Path) -> None:
        """Remember the content of an output, so that a later run recognizes it as its own."""
        outputs = [*self.metadata().get("outputs", ()), digest_output(path)]
        self.set_metadata(outputs=outputs[-_MAX_OUTPUTS:])

    def count(self) -> int:
        """Return the number of images with captions."""
        return int(self._database.execute("SELECT count(*) FROM results").fetchone()[0])

    def close(self) -> None:
        """Close the journal; the file stays."""
        with suppress(sqlite3.Error):
            self._database.close()

    def _write(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(statement, rows)
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            self._fail(error)

    def _fail(self, error: Exception) -> NoReturn:
        """Raise the OutputError that explains an error of SQLite or of the file system."""
        if isinstance(error, OutputError):
            raise error
        reason = str(error)
        if "locked" in reason:
            message = f"another run is using '{self.path}'. Wait for its end, or use another -o."
        elif any(text in reason for text in _DAMAGE_MESSAGES):
            message = f"'{self.path}' is damaged or not a journal ({reason}). {START_AGAIN}"
        elif "unable to open" in reason or not isinstance(error, sqlite3.Error):
            message = f"cannot create the journal '{self.path}': {reason}. Use another -o."
        else:
            message = f"cannot write the journal '{self.path}': {reason}. {_RESUME}"
        raise OutputError(message) from error


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata of a journal without changing it; empty if there is no journal.

    Raises:
        OutputError: Another run is using the journal, or it is damaged.
    """
    if not path.is_file():
        return {}
    # SQLite's file -wal exists while a run writes the journal, and after a kill. Without this file,
    # the journal does not change. SQLite then opens it as immutable and creates no files next to
    # it, so that the folder can be read-only.
    has_wal = path.with_name(f"{path.name}-wal").exists()
    try:
        uri = f"{path.absolute().as_uri()}?{'mode=ro' if has_wal else 'immutable=1'}"
        with closing(sqlite3.connect(uri, uri=True, timeout=1)) as database:
            rows = database.execute("SELECT name, value FROM metadata").fetchall()
    except sqlite3.Error as error:
        advice = "Check that no run is still writing it."
        raise OutputError(f"cannot read '{path}': {error}. {advice}") from error
    return _parse_metadata(rows, path)


def _parse_metadata(rows: Iterable[tuple[str, str]], path: Path) -> dict[str, Any]:
    try:
        return {name: json.loads(value) for name, value in rows}
    except (ValueError, TypeError) as error:
        raise OutputError(f"'{path}' is damaged ({error}). {START_AGAIN}") from error


def _encode_result(result: CaptionResult) -> str:
    captions = [[each.text, each.words, each.log_prob, each.finished] for each in result.captions]
    return json.dumps(captions)


def _decode_result(image: str, record: str) -> CaptionResult | None:
    """Return a stored result; None if the record is damaged, so the image is captioned again."""
    try:
        captions = tuple(
            Caption(text, tuple(words), float(log_prob), bool(finished), ())
            for text, words, log_prob, finished in json.loads(record)
        )
    except (ValueError, TypeError):
        return None
    return CaptionResult(image, captions) if captions else None
