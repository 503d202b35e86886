"""Files of the COCO caption task: results and annotations."""

import json

import numpy as np
import pytest

from captioning.datasets.coco_results import (
    read_references,
    read_results,
    select_references,
    write_results,
)
from captioning.errors import OutputError, ScoreError


def test_results_round_trip(tmp_path):
    path = tmp_path / "new" / "results.json"
    captions = {3: "a dog", 1: "café 😀", 2: ""}
    write_results(captions, path)
    assert read_results(path) == captions
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_results_with_surrogates_and_numpy_ids_round_trip(tmp_path):
    captions = {np.int64(3): "a \ud83d dog", 1: "café"}
    write_results(captions, str(tmp_path / "results.json"))
    content = (tmp_path / "results.json").read_bytes()
    (tmp_path / "marked.json").write_bytes(b"\xef\xbb\xbf" + content)
    for name in ("results.json", "marked.json"):
        assert read_results(str(tmp_path / name)) == captions
        assert read_references(str(tmp_path / name)) == {3: ["a \ud83d dog"], 1: ["café"]}


def test_references_are_grouped_by_image(tmp_path):
    entries = [{"image_id": i, "caption": text} for i, text in ((1, "a"), (2, "b"), (1, "c"))]
    for content in (entries, {"images": [], "annotations": entries}):
        (tmp_path / "refs.json").write_text(json.dumps(content))
        references = read_references(tmp_path / "refs.json")
        assert references == {1: ["a", "c"], 2: ["b"]}
    assert select_references(references, {2: "x"}) == {2: ["b"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot read .*results\.json: No such file"),
        ("caf\xe9", r"results\.json, line 1: not UTF-8"),
        ("{", r"results\.json: not valid JSON"),
        ("[" * 200_000, "not valid JSON"),
        ("{}", r"results\.json: expected a list, got an object\. A results file"),
        ("[]", "has no captions. A results file is"),
        ("[1]", r"\[0\]: expected an object, found 1"),
        ('[{"image_id": 1}]', r"\[0\]: missing field caption"),
        ('[{"image_id": "1", "caption": "a"}]', r'\[0\]\.image_id: expected an integer, found "1"'),
        (
            '[{"image_id": true, "caption": "a"}]',
            r"image_id: expected an integer, found true",
        ),
        ('[{"image_id": 1, "caption": null}]', r"\[0\]\.caption: expected a string, found null"),
        ('[{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}]', "for 1 image .such"),
        ('{"image": "a.jpg"}\n{"image": "b.jpg"}\n', "is a JSON Lines file.* -o results.json"),
    ],
)
def test_results_malformed_file_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "results.json").write_text(content, encoding="latin-1")
    with pytest.raises(ScoreError, match=message):
        read_results(tmp_path / "results.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"annotations": []}', "has no captions"),
        ('{"image": "a.jpg"}\n{"image": "b.jpg"}\n', r"JSON Lines file.* jsonl:.*refs\.json"),
    ],
)
def test_references_malformed_file_is_refused(tmp_path, content, message):
    (tmp_path / "refs.json").write_text(content)
    with pytest.raises(ScoreError, match=message):
        read_references(tmp_path / "refs.json")


def test_write_results_refuses_text_ids_and_wrong_paths(tmp_path):
    with pytest.raises(ScoreError, match=r"'dog\.jpg' is not an integer"):
        write_results({"dog.jpg": "a"}, tmp_path / "results.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_results({1: "a"}, tmp_path / "file" / "results.json")


def test_write_results_on_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "results.json").write_text("older")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OutputError, match="No space left"):
        write_results({1: "a dog"}, tmp_path / "results.json")
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert (tmp_path / "results.json").read_text() == "older"
