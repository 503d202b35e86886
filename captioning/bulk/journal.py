"""What a run over many images has done so far, on disk: killed at any moment, it can go on.

A journal is an SQLite file beside the output, ``.captions.jsonl.journal``. Each batch of results is
one transaction, so a run that is killed, loses its power or fills the disk has whole batches or
nothing. The output is written from the results in the order of the inputs, those of the journal
included: it is the same whether the run was interrupted or not. An image whose file has changed
since is captioned again; other settings or another model are refused.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from captioning.errors import ConfigError, OutputError
from captioning.inference.results import Caption, CaptionResult
from captioning.messages import describe_differences
from captioning.text.vocabulary import join_words

_FORMAT = 1
_APPLICATION = 0x43415054  # "CAPT": tells a journal from other SQLite files
_DAMAGED = ("not a database", "malformed", "no such table", "no such column")
_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE results (image BLOB PRIMARY KEY, stamp TEXT, result TEXT) WITHOUT ROWID;
"""


class Done(NamedTuple):
    """A result as it came, and what its file was like then."""

    result: CaptionResult
    stamp: str


def journal_of(output: Path) -> Path:
    """Return the path of an output's journal."""
    return output.with_name(f".{output.name}.journal")


def stamp_of(name: str) -> str:
    """Return what tells whether an image's file has changed: its size, time and permissions.

    Of a member of a shard they are the shard's; of a URL, or of what is not there, nothing.
    """
    path = name
    while path and path != os.path.dirname(path):  # noqa: PTH120
        try:
            found = os.stat(path)  # noqa: PTH116  (names need be no UTF-8)
        except NotADirectoryError:
            path = os.path.dirname(path)  # noqa: PTH120
            continue
        except (OSError, ValueError):
            return ""
        return f"{found.st_size} {found.st_mtime_ns} {found.st_mode:o}"
    return ""


class Journal:
    """The results of a run; held by one run at a time.

    Attributes:
        resumed: Whether an earlier run has begun it.

    Args:
        path: Where it is, or is made.
        settings: All that decides what an image's caption is. One that has others is refused.
        anew: Forget what earlier runs have left in it.

    Raises:
        ConfigError: It was made with other settings; the message says which.
        OutputError: It cannot be opened, is none of ours, or another run holds it.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, anew: bool = False) -> None:
        self.path = path
        self.resumed = path.exists() and not anew
        if path.exists() and not path.is_file():
            raise OutputError(f"{path} is no file, so no journal can be kept. Give another -o.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connect(anew)
            if not self.facts():
                self.note(format=_FORMAT, settings=dict(settings))
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)
        self._check(settings)

    def _connect(self, anew: bool) -> None:
        self._database = sqlite3.connect(self.path, isolation_level=None, timeout=1)
        try:
            self._open()
            if anew:  # another run may hold it, so it is emptied and not deleted
                self._database.executescript(
                    "BEGIN IMMEDIATE; DELETE FROM facts; DELETE FROM results; COMMIT;"
                )
        except sqlite3.DatabaseError as error:
            self._database.close()
            if not anew or "locked" in str(error):
                raise
            self.path.unlink()  # it is damaged
            self._connect(anew=False)

    def _open(self) -> None:
        for setting in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL"):
            self._database.execute(f"PRAGMA {setting}")
        (mark,) = self._database.execute("PRAGMA application_id").fetchone()
        tables = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if mark == 0 and not tables:
            self._database.executescript(
                f"BEGIN IMMEDIATE; PRAGMA application_id = {_APPLICATION}; {_TABLES} COMMIT;"
            )
        elif mark != _APPLICATION:
            raise OutputError(
                f"{self.path} is a database of something else, so it is left as it is. "
                "Give another -o."
            )

    def _check(self, settings: Mapping[str, Any]) -> None:
        facts = self.facts()
        before = facts.get("settings")
        if facts.get("format") != _FORMAT or not isinstance(before, dict):
            self.close()
            raise OutputError(
                f"{self.path} was written by another version of this package. Give --overwrite "
                "to begin anew, or another -o."
            )
        wanted = as_written_now(json.loads(json.dumps(dict(settings))))
        before = as_written_now(before)
        if before == wanted:
            return
        self.close()
        raise ConfigError(
            f"The run in {self.path} was begun with other settings: "
            f"{describe_differences(before, wanted)}. Give the same to go on, "
            "--overwrite to begin anew, or "
            "another -o."
        )

    def facts(self) -> dict[str, Any]:
        """Return what is noted about the run."""
        rows = self._database.execute("SELECT name, value FROM facts").fetchall()
        return _facts(rows, self.path)

    def note(self, **facts: Any) -> None:
        """Note something about the run.

        Raises:
            OutputError: It cannot be written.
        """
        rows = [(name, json.dumps(value)) for name, value in facts.items()]
        self._write("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)

    def find(self, name: str, stamp: str) -> CaptionResult | None:
        """Return an image's result, or None where there is none, or its file has changed since."""
        if not self.resumed:
            return None
        try:
            row = self._database.execute(
                "SELECT stamp, result FROM results WHERE image = ?", (os.fsencode(name),)
            ).fetchone()
        except sqlite3.Error as error:
            self._give_up(error)
        return _result(name, row[1]) if row and row[0] == stamp else None

    def add(self, done: Iterable[Done]) -> None:
        """Write results, all or none of them; those without a caption are left out.

        Raises:
            OutputError: They cannot be written: the disk is full, say.
        """
        rows = [
            (os.fsencode(each.result.source), each.stamp, _record(each.result))
            for each in done
            if each.result.ok  # what failed is tried again: a server may answer the next time
        ]
        self._write("INSERT OR REPLACE INTO results VALUES (?, ?, ?)", rows)

    def count(self) -> int:
        """Return how many images have captions."""
        return int(self._database.execute("SELECT count(*) FROM results").fetchone()[0])

    def close(self) -> None:
        """Let the journal go; it stays on disk."""
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
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        told = str(error)
        if "locked" in told:
            raise OutputError(
                f"Another run is writing to {self.path}. Wait for its end, or give another -o."
            ) from error
        if isinstance(error, OutputError):
            raise error
        if isinstance(error, sqlite3.DatabaseError) and any(each in told for each in _DAMAGED):
            raise OutputError(
                f"{self.path} is damaged, or no journal ({told}). Give --overwrite to begin anew, "
                "or another -o."
            ) from error
        if "unable to open" in told or not isinstance(error, sqlite3.Error):
            raise OutputError(
                f"The journal {self.path} cannot be made: {told}. Give another -o."
            ) from error
        raise OutputError(
            f"The journal {self.path} cannot be written: {told}. Make room or give another -o; "
            "what is captioned so far is kept, and the same command goes on from there."
        ) from error


def as_written_now(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's settings as this version writes them.

    An older version's search lacks the rules that came later: they were not there, which is their
    default.
    """
    from captioning.decoding import search_from_json, search_to_json  # torch: not for --help

    try:
        search = search_to_json(search_from_json(settings["search"]))
    except (KeyError, TypeError, AttributeError, ConfigError):
        return dict(settings)
    return {**settings, "search": search}


def read_facts(path: Path) -> dict[str, Any]:
    """Return what is noted in a journal, which is not touched; nothing where there is none.

    Raises:
        OutputError: A run holds it, or it is damaged.
    """
    if not path.is_file():
        return {}
    try:
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1)
        try:
            rows = database.execute("SELECT name, value FROM facts").fetchall()
        finally:
            database.close()
    except sqlite3.Error as error:
        raise OutputError(f"{path} cannot be read: {error}. Is a run still writing it?") from error
    return _facts(rows, path)


def _facts(rows: Iterable[tuple[str, str]], path: Path) -> dict[str, Any]:
    try:
        return {name: json.loads(value) for name, value in rows}
    except (ValueError, TypeError) as error:
        raise OutputError(
            f"{path} is damaged ({error}). Give --overwrite to begin anew, or another -o."
        ) from error


def _record(result: CaptionResult) -> str:
    return json.dumps([[each.words, each.log_prob, each.finished] for each in result.captions])


def _result(name: str, record: str) -> CaptionResult | None:
    """Return what a record says; None where it is damaged: the image is captioned again."""
    try:
        captions = tuple(
            Caption(
                text=join_words(words),
                words=tuple(words),
                log_prob=float(log_prob),
                finished=bool(finished),
                word_log_probs=(),
            )
            for words, log_prob, finished in json.loads(record)
        )
    except (ValueError, TypeError):
        return None
    return CaptionResult(name, captions) if captions else None
