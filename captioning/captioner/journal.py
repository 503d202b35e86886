"""What a run over many pictures has done so far, on disk: killed at any moment, it can go on.

A journal is an SQLite file beside the output, ``.captions.jsonl.journal``. Each batch of results is
one transaction, so a run that is killed, loses its power or fills the disk has whole batches or
nothing. The output is written from the results in the order of the inputs, those of the journal
included: it is the same whether the run was interrupted or not. A picture whose file has changed
since is captioned again; other settings or another model are refused.
"""

import hashlib
import json
import math
import os
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from captioning.captioner.results import Caption, CaptionedPicture
from captioning.checkpoint import Checkpoint
from captioning.data.vocabulary import join_words
from captioning.errors import OutputError, SettingsError

_FORMAT = 1
_APPLICATION = 0x43415054  # "CAPT": tells a journal from other SQLite files
_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE results (picture BLOB PRIMARY KEY, stamp TEXT, result TEXT) WITHOUT ROWID;
"""


class Done(NamedTuple):
    """A result as it came, and what its file was like then."""

    result: CaptionedPicture
    stamp: str


def journal_of(output: Path) -> Path:
    """Return the path of an output's journal."""
    return output.with_name(f".{output.name}.journal")


def stamp_of(name: str) -> str:
    """Return what tells whether a picture's file has changed: its size, time and permissions.

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


def fingerprint(checkpoints: Iterable[Checkpoint]) -> str:
    """Return a name for models: equal only where words, pixels and every weight are."""
    digest = hashlib.sha256()
    for checkpoint in checkpoints:
        digest.update(repr(checkpoint.model.encoder.preprocessing).encode())
        digest.update("\n".join(checkpoint.vocabulary.words).encode("utf-8", "surrogatepass"))
        for name, weight in checkpoint.model.state_dict().items():
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


class Journal:
    """The results of a run; held by one run at a time.

    Attributes:
        resumed: Whether an earlier run has begun it.

    Args:
        path: Where it is, or is made.
        settings: All that decides what a picture's caption is. One that has others is refused.

    Raises:
        SettingsError: It was made with other settings; the message says which.
        OutputError: It cannot be opened, is none of ours, or another run holds it.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.resumed = path.exists()
        if self.resumed and not path.is_file():
            raise OutputError(f"{path} is no file, so no journal can be kept. Give another -o.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, isolation_level=None, timeout=1)
            self._open()
            if not self.facts():
                self._begin(settings)
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)
        self._check(settings)

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

    def _begin(self, settings: Mapping[str, Any]) -> None:
        self.note(format=_FORMAT, settings=dict(settings))

    def _check(self, settings: Mapping[str, Any]) -> None:
        facts = self.facts()
        before = facts.get("settings")
        if facts.get("format") != _FORMAT or not isinstance(before, dict):
            self.close()
            raise OutputError(
                f"{self.path} was written by another version of this package. Give --overwrite "
                "to begin anew, or another -o."
            )
        wanted = json.loads(json.dumps(dict(settings)))
        if before == wanted:
            return
        self.close()
        changes = "; ".join(
            f"{name} was {before.get(name)}, and is {wanted.get(name)} now"
            for name in {**before, **wanted}
            if before.get(name) != wanted.get(name)
        )
        raise SettingsError(
            f"The run in {self.path} was begun with other settings: {changes}. Give the same to go "
            "on, --overwrite to begin anew, or another -o."
        )

    def facts(self) -> dict[str, Any]:
        """Return what is noted about the run."""
        rows = self._database.execute("SELECT name, value FROM facts").fetchall()
        return {name: json.loads(value) for name, value in rows}

    def note(self, **facts: Any) -> None:
        """Note something about the run.

        Raises:
            OutputError: It cannot be written.
        """
        rows = [(name, json.dumps(value)) for name, value in facts.items()]
        self._write("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)

    def find(self, name: str, stamp: str) -> CaptionedPicture | None:
        """Return a picture's result, or None where there is none, or its file has changed since."""
        if not self.resumed:
            return None
        try:
            row = self._database.execute(
                "SELECT stamp, result FROM results WHERE picture = ?", (os.fsencode(name),)
            ).fetchone()
        except sqlite3.Error as error:
            self._give_up(error)
        return _result(name, row[1]) if row and row[0] == stamp else None

    def add(self, done: Iterable[Done]) -> None:
        """Write results, all or none of them.

        Raises:
            OutputError: They cannot be written: the disk is full, say.
        """
        rows = [
            (os.fsencode(each.result.source), each.stamp, _record(each.result)) for each in done
        ]
        self._write("INSERT OR REPLACE INTO results VALUES (?, ?, ?)", rows)

    def count(self) -> int:
        """Return how many pictures have a result."""
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
        if "not a database" in told or "malformed" in told:
            raise OutputError(
                f"{self.path} is damaged, or no journal ({told}). Give --overwrite to begin anew, "
                "or another -o."
            ) from error
        raise OutputError(
            f"The journal {self.path} cannot be written: {told}. Make room or give another -o; "
            "what is captioned so far is kept, and the same command goes on from there."
        ) from error


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
    return {name: json.loads(value) for name, value in rows}


def remove_journal(output: Path) -> None:
    """Delete an output's journal, so that a run begins anew.

    Raises:
        OutputError: It cannot be deleted.
    """
    path = journal_of(output)
    for ending in ("", "-wal", "-shm", "-journal"):
        try:
            path.with_name(path.name + ending).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{path} cannot be deleted: {error}. Give another -o.") from error


def _record(result: CaptionedPicture) -> str:
    captions = [[each.words, each.log_prob, each.finished] for each in result.captions]
    return json.dumps({"error": result.error} if result.error else {"captions": captions})


def _result(name: str, record: str) -> CaptionedPicture:
    content = json.loads(record)
    captions = tuple(
        Caption(
            text=join_words(words),
            words=tuple(words),
            log_prob=log_prob if log_prob is not None else -math.inf,
            finished=finished,
            word_log_probs=(),
        )
        for words, log_prob, finished in content.get("captions", ())
    )
    return CaptionedPicture(name, captions, content.get("error", ""))
