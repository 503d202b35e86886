"""The journal: results survive kills and full disks, and damage is reported."""

import math
import sqlite3
import subprocess
import sys

import pytest

from captioning.bulk.content import ImageContent
from captioning.bulk.journal import (
    Journal,
    JournalEntry,
    journal_path,
    read_metadata,
)
from captioning.decoding import BeamSearch, Sampling, search_to_json
from captioning.errors import ConfigError, OutputError
from captioning.images.image_ref import ImageRef
from captioning.inference.results import Caption, CaptionResult

URL = ImageContent(ImageRef("http://a/b.jpg", lambda: b""))
SETTINGS = {"model": "abc", "search": {"width": 5}}


@pytest.fixture(autouse=True)
def _close_databases(monkeypatch):
    """Close what a test leaves open. Python 3.13 warns about it, in a later test."""
    opened, connect = [], sqlite3.connect

    def remember(*args, **options):
        opened.append(connect(*args, **options))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", remember)
    yield
    for database in opened:
        database.close()


def result(source, text="a dog 's tail", log_prob=-1.5):
    words = tuple(text.split())
    return CaptionResult(source, (Caption("a dog's tail", words, log_prob, True, ()),))


def entry(given):
    """Return the journal entry of an image behind a URL."""
    return JournalEntry(given.source, URL, given)


def get(journal, image):
    return journal.get(image, URL, image)


ODD = [
    "a.jpg",
    'quote".jpg',
    "new\nline.jpg",
    "caf\udce9.jpg",
    "日本.jpg",
    "s.tar/a.jpg",
    "http://a",
]


@pytest.mark.parametrize("source", ODD)
def test_journal_returns_results_unchanged(source, tmp_path):
    path = tmp_path / "j"
    given = [result(source), result(source + "2", log_prob=-math.inf)]
    given += [result(source + "3", log_prob=-1 / 3)]
    journal = Journal(path, SETTINGS)
    journal.put(map(entry, given))
    journal.close()
    again = Journal(path, SETTINGS)
    assert (journal.resumed, again.resumed) == (False, True)
    assert [get(again, each.source) for each in given] == given
    assert get(again, "other.jpg") is None
    assert again.count() == 3


def test_journal_does_not_store_failures(tmp_path):
    journal = Journal(tmp_path / "j", SETTINGS)
    journal.put(
        [
            entry(CaptionResult("a.jpg", error="no answer")),
            entry(result("b.jpg")),
        ]
    )
    journal.close()
    again = Journal(tmp_path / "j", SETTINGS)
    assert get(again, "a.jpg") is None
    assert get(again, "b.jpg") == result("b.jpg")


def test_journal_with_other_settings_is_refused(tmp_path):
    Journal(tmp_path / "j", SETTINGS).close()
    with pytest.raises(
        ConfigError,
        match=r"settings differ: model was 'abc' and is now 'xyz'; beam was None and is now 3",
    ):
        Journal(tmp_path / "j", {**SETTINGS, "model": "xyz", "beam": 3})
    assert read_metadata(tmp_path / "j")["settings"] == SETTINGS


def test_journal_names_changed_search_settings(tmp_path):
    settings = {"model": "abc", "search": search_to_json(BeamSearch(width=5))}
    Journal(tmp_path / "j", settings).close()
    narrow = {**settings, "search": search_to_json(BeamSearch(width=2))}
    with pytest.raises(
        ConfigError, match=r"settings differ: search\.width was 5 and is now 2\. Use the same"
    ):
        Journal(tmp_path / "j", narrow)
    drawn = {**settings, "search": search_to_json(Sampling(max_length=9))}
    told = r"settings differ: search\.method was 'beam' and is now 'sampling'\. Use the same"
    with pytest.raises(ConfigError, match=told):
        Journal(tmp_path / "j", drawn)


def test_journal_in_use_is_refused(tmp_path):
    journal = Journal(tmp_path / "j", SETTINGS)
    with pytest.raises(OutputError, match="another run is using"):
        Journal(tmp_path / "j", SETTINGS)
    journal.close()
    Journal(tmp_path / "j", SETTINGS).close()


@pytest.mark.parametrize("content", [b"my notes, not a database", bytes(5000), b"SQLite f"])
def test_file_that_is_not_a_journal_is_unchanged(content, tmp_path):
    (tmp_path / "j").write_bytes(content)
    with pytest.raises(OutputError, match="j' is damaged or not a journal"):
        Journal(tmp_path / "j", SETTINGS)
    assert (tmp_path / "j").read_bytes() == content


def test_database_of_another_program_is_refused(tmp_path):
    with sqlite3.connect(tmp_path / "j") as other:
        other.execute("CREATE TABLE notes (text)")
    other.close()
    with pytest.raises(OutputError, match="is a database of another program"):
        Journal(tmp_path / "j", SETTINGS)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="is not a file"):
        Journal(tmp_path / "folder", SETTINGS)


def test_a_journal_path_another_version_is_refused(tmp_path):
    journal = Journal(tmp_path / "j", SETTINGS)
    journal.set_metadata(format=99)
    journal.close()
    with pytest.raises(OutputError, match="written by another version"):
        Journal(tmp_path / "j", SETTINGS)


KILLED = """
import os, sys
from pathlib import Path
from captioning.bulk.content import ImageContent
from captioning.bulk.journal import Journal, JournalEntry
from captioning.images.image_ref import ImageRef
from captioning.inference.results import Caption, CaptionResult
journal = Journal(Path(sys.argv[1]), {})
def entry(n):
    content = ImageContent(ImageRef(str(n), str(n).encode()))
    result = CaptionResult(str(n), (Caption("x", ("x",), -1.0, True, ()),))
    return JournalEntry(str(n), content, result)
journal.put(map(entry, range(3)))
def rows():
    for n in range(3, 1000):
        if n == 500:
            os.kill(os.getpid(), 9)
        yield entry(n)
journal.put(rows())
"""


def test_killed_put_leaves_no_part_of_a_batch(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "j")], check=False)
    journal = Journal(tmp_path / "j", {})
    assert journal.count() == 3
    assert journal.get("2", ImageContent(ImageRef("2", b"2")), "2").text == "x"


def test_full_disk_keeps_stored_results(tmp_path):
    journal = Journal(tmp_path / "j", SETTINGS)
    journal.put([entry(result("a.jpg"))])
    pages = journal._database.execute("PRAGMA page_count").fetchone()[0]
    journal._database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(
        OutputError, match=r"cannot write the journal .*: database or disk is full.*same command"
    ):
        journal.put(entry(result(f"{number}.jpg")) for number in range(1000))
    journal._database.execute("PRAGMA max_page_count = 100000")
    assert journal.count() == 1
    journal.put([entry(result("b.jpg"))])
    assert journal.count() == 2


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE metadata SET value = '{'",
        "DROP TABLE results",
        "UPDATE results SET result = 'nonsense'",
        "UPDATE results SET result = '[[1]]'",
    ],
)
def test_damaged_journal_is_reported_or_ignored(damage, tmp_path):
    journal = Journal(tmp_path / "j", SETTINGS)
    journal.put([entry(result("a.jpg"))])
    journal._database.execute(damage)
    journal.close()
    if "UPDATE results" in damage:
        assert get(Journal(tmp_path / "j", SETTINGS), "a.jpg") is None
    else:
        with pytest.raises(OutputError, match=r"is damaged.* Use --overwrite to start again"):
            get(Journal(tmp_path / "j", SETTINGS), "a.jpg")


@pytest.mark.parametrize("content", [None, b"no database at all", bytes(5000)])
def test_journal_restart_deletes_results(content, tmp_path):
    path = tmp_path / "j"
    if content is None:
        journal = Journal(path, {"other": 1})
        journal.put([entry(result("a.jpg"))])
        journal.close()
    else:
        path.write_bytes(content)
    journal = Journal(path, SETTINGS, restart=True)
    assert journal.count() == 0
    assert journal.metadata()["settings"] == SETTINGS
    assert not journal.resumed


def test_journal_restart_while_in_use_is_refused(tmp_path):
    journal = Journal(tmp_path / "j", SETTINGS)
    journal.put([entry(result("a.jpg"))])
    with pytest.raises(OutputError, match="another run is using"):
        Journal(tmp_path / "j", SETTINGS, restart=True)
    assert journal.count() == 1


def test_journal_path_is_hidden_next_to_output(tmp_path):
    path = journal_path(tmp_path / "rows.jsonl")
    assert path == tmp_path / ".rows.jsonl.journal"
    assert read_metadata(path) == {}
