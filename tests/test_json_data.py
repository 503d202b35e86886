"""JSON is read into dataclasses, and everything that does not fit is refused by its path."""

import json
import os
import re
import resource
import signal
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from captioning.errors import CheckpointError, ConfigError
from captioning.json_data import (
    MAX_JSON_BYTES,
    choice_from_json,
    from_json,
    open_regular,
    parse_json,
    read_json,
)


@dataclass(frozen=True)
class Inner:
    size: int = 1
    rate: float = 0.5
    mean: tuple[float, float, float] = (0.1, 0.2, 0.3)
    cell: Literal["gru", "lstm"] = "lstm"

    def __post_init__(self):
        if self.size < 0:
            raise ConfigError("size is negative.")


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner
    on: bool = False
    path: Path | None = None
    words: tuple[str, ...] = ()
    scores: dict[str, float | str] = field(default_factory=dict)
    parts: tuple[Inner, ...] = ()


def test_parse_json_valid_text_gives_dataclass():
    text = json.dumps(
        {
            "inner": {"size": 2, "rate": 1, "mean": [0, 0.5, 1e-3], "cell": "gru"},
            "path": "a/b",
            "words": ["日本", "😀"],
            "scores": {"BLEU-4": 0.25, "signature": "x"},
            "parts": [{}, {"size": 3}],
        }
    )
    wanted = Outer(
        inner=Inner(2, 1.0, (0, 0.5, 1e-3), "gru"),
        path=Path("a/b"),
        words=("日本", "😀"),
        scores={"BLEU-4": 0.25, "signature": "x"},
        parts=(Inner(), Inner(3)),
    )
    assert parse_json(text, Outer, source="config.json") == wanted
    assert from_json(json.loads(text), Outer, source="config.json") == wanted


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ('{"size": true}', "inner.size: expected an integer, found true"),
        ('{"size": 1.0}', "inner.size: expected an integer, found 1.0"),
        ('{"size": "big"}', 'inner.size: expected an integer, found "big"'),
        ('{"size": -1}', "inner: size is negative."),
        ('{"rate": 1e400}', "inner.rate: number out of range, found Infinity"),
        (f'{{"rate": 1{"0" * 400}}}', "inner.rate: number out of range, found 1000"),
        ('{"rate": false}', "inner.rate: expected a number, found false"),
        ('{"mean": [1, 2]}', "inner.mean: expected a list of length 3, found [1, 2]"),
        ('{"mean": [1, "a", 2]}', 'inner.mean[1]: expected a number, found "a"'),
        ('{"cell": "rnn"}', 'inner.cell: expected one of gru, lstm, found "rnn"'),
        ('{"siez": 1}', "inner.siez: unknown field. Did you mean 'size'? Correct it"),
        ('{"size": 1, "size": 2}', 'the field "size" is repeated'),
        ('{}, "on": 1', "on: expected true or false, found 1"),
        ('{}, "path": 3', "path: expected a string, found 3"),
        ('{}, "scores": {"a": [1]}', "scores[...]: expected a number or a string"),
        ('{}, "parts": [{}, {"rat": 1}]', "parts[1].rat: unknown field. Did you mean 'rate'?"),
        ('[]', "inner: expected an object, found []"),
        (f'{{"{"x" * 9999}": 1}}', "inner.xxxx"),
    ],
)  # fmt: skip
def test_parse_json_bad_field_is_refused_by_path(inner, message):
    with pytest.raises(ConfigError, match=re.escape(f"config.json: {message}")) as caught:
        parse_json(f'{{"inner": {inner}}}', Outer, source="config.json")
    assert len(str(caught.value)) < 600
    assert str(caught.value).endswith("Correct it, or copy the file again.")


def test_parse_json_missing_field_is_refused():
    with pytest.raises(ConfigError, match=r"config\.json: missing field inner\."):
        parse_json("{}", Outer, source="config.json")
    text = '{"size": 1, "rate": 1, "mean": [1, 2, 3]}'
    assert parse_json(text, Inner, source="a").cell == "lstm"
    with pytest.raises(ConfigError, match=r"a: cell: the field is missing"):
        parse_json(text, Inner, source="a", require_all=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[1]", "expected an object, found"),
        (b"1e999", "number out of range"),
        (b"", "input data was truncated"),
        (b'{"a": 1', "input data was truncated"),
        (b"\xff\xfe", "JSON is malformed"),
        (b'{"a": "\xff"}', "(can't decode byte 0xff|invalid UTF-8)"),
        (b'{"a": NaN}', "JSON is malformed"),
        (b'{"a": -Infinity}', "JSON is malformed"),
        (b'{"a": -1e999}', "number out of range"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "out of range"),
        (b'{"a":' * 100_000, "recursion depth"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested more than 64 levels deep"),
        (b'{"a": {"b": 1, "b": 2}}', 'the field "b" is repeated'),
        (b'{"a": ["\\ud800 and more"]}', "surrogate"),
        (b'{"\\udcff": 1}', "surrogate"),
    ],
)
def test_read_json_bad_text_names_the_file(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_bytes(text)
    with pytest.raises(CheckpointError, match=f"{re.escape(str(path))}: .*{message}.*Correct it"):
        read_json(path, dict, error=CheckpointError)


def test_from_json_nan_is_refused():
    with pytest.raises(ConfigError, match=r"journal: JSON is malformed"):
        from_json({"rate": float("nan")}, Inner, source="journal")


@dataclass(frozen=True)
class Other:
    width: int = 3


def test_choice_from_json_tag_selects_the_class():
    choices = {"inner": Inner, "other": Other}
    assert choice_from_json({"kind": "other"}, choices, tag="kind", source="s") == Other()
    for content, message in (
        ({"kind": "othr"}, "s: kind: expected one of inner, other, found \"othr\". Did you mean"),
        ({}, "s: kind: expected one of inner, other, found null"),
        ({"kind": "other", "size": 1}, "s: size: unknown field"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=re.escape(message)):
            choice_from_json(content, choices, tag="kind", source="s")


# --- files ------------------------------------------------------------------------------------


@contextmanager
def time_limit(seconds):
    def stop(*_):
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (os.mkfifo, "pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "device"),
        (Path.mkdir, "folder"),
    ],
)
def test_read_json_special_file_is_not_opened(tmp_path, make, kind):
    make(tmp_path / "a.json")
    with time_limit(5), pytest.raises(ConfigError, match=f"it is a {kind}, not a regular file"):
        read_json(tmp_path / "a.json", Inner)


def test_read_json_link_is_followed(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "link.json").symlink_to("a.json")  # as in the cache of a model hub
    assert read_json(tmp_path / "link.json", Inner) == Inner()
    (tmp_path / "a.json").unlink()
    with pytest.raises(ConfigError, match=r"cannot read '.*link.json': .*No such file"):
        read_json(tmp_path / "link.json", Inner)


def test_open_regular_large_file_is_refused(tmp_path):
    (tmp_path / "a").touch()
    os.truncate(tmp_path / "a", 10**12)  # a sparse file
    with (
        pytest.raises(ValueError, match="it has 1,000,000,000,000 bytes, the limit is 5"),
        open_regular(tmp_path / "a", 5),
    ):
        pass


@pytest.mark.parametrize("kind", [Outer, dict])
def test_read_json_largest_file_stays_in_memory_bound(tmp_path, kind):
    path = tmp_path / "config.json"
    path.write_bytes(b'{"words": [' + b"[]," * (MAX_JSON_BYTES // 3 - 10) + b"[]]}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        assert len(read_json(path, kind)["words"]) > 5_000_000
    except ConfigError as error:
        assert "words[0]: expected a string, found []" in str(error)  # noqa: PT017
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700 * 1024  # in KiB
