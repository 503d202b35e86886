import math
import os
import sqlite3
import subprocess
import sys

import pytest

from captioning.bulk.journal import (
    Done,
    Journal,
    journal_of,
    read_facts,
    stamp_of,
)
from captioning.decoding import BeamSearch, Sampling, search_to_json
from captioning.errors import ConfigError, OutputError
from captioning.inference.results import Caption, CaptionResult

SETTINGS = {"model": "abc", "search": {"width": 5}}


def result(source, text="a dog 's tail", log_prob=-1.5):
    words = tuple(text.split())
    return CaptionResult(source, (Caption("a dog's tail", words, log_prob, True, ()),))


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
def test_results_come_back_as_they_went_in(source, tmp_path):
    path = tmp_path / "j"
    given = [result(source), result(source + "2", log_prob=-math.inf)]
    given += [result(source + "3", log_prob=-1 / 3)]
    journal = Journal(path, SETTINGS)
    journal.add(Done(each, "stamp") for each in given)
    journal.close()
    again = Journal(path, SETTINGS)
    assert (journal.resumed, again.resumed) == (False, True)
    assert [again.find(each.source, "stamp") for each in given] == given
    assert again.find("other.jpg", "stamp") is None
    assert again.count() == 3


def test_what_failed_is_tried_again(tmp_path):
    journal = Journal(tmp_path / "j", SETTINGS)
    journal.add([Done(CaptionResult("a.jpg", error="no answer"), ""), Done(result("b.jpg"), "")])
    journal.close()
    again = Journal(tmp_path / "j", SETTINGS)
    assert again.find("a.jpg", "") is None
    assert again.find("b.jpg", "") == result("b.jpg")


def test_a_image_that_has_changed_is_not_known(tmp_path):
    photo = tmp_path / "a.jpg"
    assert stamp_of(str(photo)) == ""
    photo.write_bytes(b"one")
    first = stamp_of(str(photo))
    os.utime(photo, ns=(0, 10**18))
    assert first != stamp_of(str(photo)) == stamp_of(f"{photo}/inside/b.jpg")
    photo.chmod(0)
    assert stamp_of(str(photo)).endswith("100000")
    journal = Journal(tmp_path / "j", SETTINGS)
    journal.add([Done(result(str(photo)), first)])
    journal.close()
    journal = Journal(tmp_path / "j", SETTINGS)
    assert journal.find(str(photo), first) == result(str(photo))
    assert journal.find(str(photo), stamp_of(str(photo))) is None


def test_other_settings_are_refused_and_named(tmp_path):
    Journal(tmp_path / "j", SETTINGS).close()
    with pytest.raises(
        ConfigError,
        match=r"settings: model was 'abc' and is now 'xyz'; beam was None and is now 3\. Give",
    ):
        Journal(tmp_path / "j", {**SETTINGS, "model": "xyz", "beam": 3})
    assert read_facts(tmp_path / "j")["settings"] == SETTINGS


def test_a_run_begun_before_a_rule_of_searches_was_there_goes_on(tmp_path):
    settings = {"model": "abc", "search": search_to_json(BeamSearch(width=5))}
    older = {name: v for name, v in settings["search"].items() if name != "no_double_word"}
    assert older != settings["search"]
    Journal(tmp_path / "j", {**settings, "search": older}).close()
    Journal(tmp_path / "j", settings).close()
    ruled = {**settings, "search": search_to_json(BeamSearch(width=5, no_double_word=True))}
    told = r"settings: search\.no_double_word was False and is now True\. Give"
    with pytest.raises(ConfigError, match=told):
        Journal(tmp_path / "j", ruled)


def test_of_searches_only_what_differs_is_named(tmp_path):
    settings = {"model": "abc", "search": search_to_json(BeamSearch(width=5))}
    Journal(tmp_path / "j", settings).close()
    narrow = {**settings, "search": search_to_json(BeamSearch(width=2))}
    with pytest.raises(
        ConfigError, match=r"settings: search\.width was 5 and is now 2\. Give the same"
    ):
        Journal(tmp_path / "j", narrow)
    drawn = {**settings, "search": search_to_json(Sampling(max_length=9))}
    told = r"settings: search\.method was 'beam' and is now 'sampling'\. Give the same"
    with pytest.raises(ConfigError, match=told):
        Journal(tmp_path / "j", drawn)


def test_two_runs_do_not_share_a_journal(tmp_path):
    journal = Journal(tmp_path / "j", SETTINGS)
    with pytest.raises(OutputError, match="Another run is writing to"):
        Journal(tmp_path / "j", SETTINGS)
    journal.close()
    Journal(tmp_path / "j", SETTINGS).close()


@pytest.mark.parametrize("content", [b"my notes, which are no database", bytes(5000), b"SQLite f"])
def test_what_is_no_journal_is_left_as_it_is(content, tmp_path):
    (tmp_path / "j").write_bytes(content)
    with pytest.raises(OutputError, match="j is damaged, or no journal"):
        Journal(tmp_path / "j", SETTINGS)
    assert (tmp_path / "j").read_bytes() == content


def test_a_database_of_something_else_is_left_as_it_is(tmp_path):
    with sqlite3.connect(tmp_path / "j") as other:
        other.execute("CREATE TABLE notes (text)")
    other.close()
    with pytest.raises(OutputError, match="is a database of something else"):
        Journal(tmp_path / "j", SETTINGS)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="is no file"):
        Journal(tmp_path / "folder", SETTINGS)


def test_a_journal_of_another_version_is_refused(tmp_path):
    journal = Journal(tmp_path / "j", SETTINGS)
    journal.note(format=99)
    journal.close()
    with pytest.raises(OutputError, match="written by another version"):
        Journal(tmp_path / "j", SETTINGS)


KILLED = """
import os, sys
from pathlib import Path
from captioning.bulk.journal import Done, Journal
from captioning.inference.results import Caption, CaptionResult
journal = Journal(Path(sys.argv[1]), {})
def result(n):
    return CaptionResult(str(n), (Caption("x", ("x",), -1.0, True, ()),))
journal.add(Done(result(n), "") for n in range(3))
def rows():
    for n in range(3, 1000):
        if n == 500:
            os.kill(os.getpid(), 9)
        yield Done(result(n), "")
journal.add(rows())
"""


def test_a_batch_is_there_whole_or_not_at_all(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "j")], check=False)
    journal = Journal(tmp_path / "j", {})
    assert journal.count() == 3
    assert journal.find("2", "").text == "x"


def test_a_full_disk_is_told_and_what_was_there_stays(tmp_path):
    journal = Journal(tmp_path / "j", SETTINGS)
    journal.add([Done(result("a.jpg"), "")])
    pages = journal._database.execute("PRAGMA page_count").fetchone()[0]
    journal._database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(
        OutputError, match=r"cannot be written: database or disk is full.*the same co"
    ):
        journal.add(Done(result(f"{number}.jpg"), "") for number in range(1000))
    journal._database.execute("PRAGMA max_page_count = 100000")
    assert journal.count() == 1
    journal.add([Done(result("b.jpg"), "")])
    assert journal.count() == 2


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE facts SET value = '{'",
        "DROP TABLE results",
        "UPDATE results SET result = 'nonsense'",
        "UPDATE results SET result = '[[1]]'",
    ],
)
def test_a_journal_that_was_tampered_with_is_told_or_tried_again(damage, tmp_path):
    journal = Journal(tmp_path / "j", SETTINGS)
    journal.add([Done(result("a.jpg"), "")])
    journal._database.execute(damage)
    journal.close()
    if "UPDATE results" in damage:
        assert Journal(tmp_path / "j", SETTINGS).find("a.jpg", "") is None
    else:
        with pytest.raises(OutputError, match=r"is damaged.* Give --overwrite to begin anew"):
            Journal(tmp_path / "j", SETTINGS).find("a.jpg", "")


@pytest.mark.parametrize("content", [None, b"no database at all", bytes(5000)])
def test_a_journal_is_begun_anew_on_request(content, tmp_path):
    path = tmp_path / "j"
    if content is None:
        journal = Journal(path, {"other": 1})
        journal.add([Done(result("a.jpg"), "")])
        journal.close()
    else:
        path.write_bytes(content)
    journal = Journal(path, SETTINGS, anew=True)
    assert journal.count() == 0
    assert journal.facts()["settings"] == SETTINGS
    assert not journal.resumed


def test_a_journal_that_a_run_holds_is_not_begun_anew(tmp_path):
    journal = Journal(tmp_path / "j", SETTINGS)
    journal.add([Done(result("a.jpg"), "")])
    with pytest.raises(OutputError, match="Another run is writing to"):
        Journal(tmp_path / "j", SETTINGS, anew=True)
    assert journal.count() == 1


def test_a_journal_lies_hidden_beside_its_output(tmp_path):
    path = journal_of(tmp_path / "rows.jsonl")
    assert path == tmp_path / ".rows.jsonl.journal"
    assert read_facts(path) == {}
