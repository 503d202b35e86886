"""Files of the COCO caption task: results and annotations."""

import json

import numpy as np
import pytest

from captioning.datasets.coco_results import read_references, write_results
from captioning.datasets.result_files import read_results
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


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("r.csv", "image_id,caption\r\n7,a dog\r\nvid2,'-a\r\n", {7: "a dog", "vid2": "'-a"}),
        ("r.csv", 'file_name,text,text_2\r\na.jpg,"a, b",c\r\n', {"a.jpg": "a, b"}),
        ("r.tsv", "id\tcaption\n7\ta, dog\n", {7: "a, dog"}),
        ("r.csv", "id;caption\n7.0;a, dog\n", {7: "a, dog"}),
        ("r.jsonl", '{"file_name": "a.jpg", "captions": ["a", "b"]}', {"a.jpg": "a"}),
        ("r.jsonl", '{"image": "a", "text": ""}\n{"image": "b", "error": "bad"}\n', {"a": ""}),
        ("r.json", '{"7": "a dog", "vid2": ["a cat"]}', {7: "a dog", "vid2": "a cat"}),
        ("r.json", '[{"image_id": 7.0, "caption": [{"caption": "a"}]}]', {7: "a"}),
    ],
)
def test_results_of_other_formats_are_read(name, content, expected, tmp_path):
    (tmp_path / name).write_bytes(content.encode())
    assert read_results(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.jpg,a dog\n", "has no captions"),
        ("a.jpg,a dog\nb.jpg,a cat\n", "has no image: .*, found a.jpg, a dog"),
        ("image_id,caption\n1,a,b\n", "row 1 has more or fewer cells than the header"),
        ('image_id,caption\n1,"a\n', r"near line \d: .*missing double quote"),
    ],
)
def test_results_malformed_table_is_refused(content, message, tmp_path):
    (tmp_path / "results.csv").write_text(content)
    with pytest.raises(ScoreError, match=message):
        read_results(tmp_path / "results.csv")


def test_references_are_grouped_by_image(tmp_path):
    entries = [{"image_id": i, "caption": text} for i, text in ((1, "a"), (2, "b"), (1, "c"))]
    mapping = {1: [{"caption": "a"}, "c"], 2: ["b"]}
    for content in (entries, {"images": [], "annotations": entries}, mapping):
        (tmp_path / "refs.json").write_text(json.dumps(content))
        references = read_references(tmp_path / "refs.json")
        assert references == {1: ["a", "c"], 2: ["b"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot read .*results\.json': no such file"),
        ("caf\xe9", r"results\.json, line 1: not UTF-8"),
        ("{", r"results\.json: not valid JSON"),
        ("[" * 200_000, "not valid JSON"),
        ("", r"results\.json' is empty"),
        ("{}", r"results\.json' has no captions\. Write results with"),
        ("<html>", r"results\.json' is not JSON: it begins with '<html>'"),
        ('[{"image_id": 1, "caption": 5}]', "row 1 has the caption 5, not a string"),
        ("[1]", "row 1 is 1, not an image with its caption"),
        ('[{"image_id": 1}]', "row 1 has no caption: expected text or caption, found image_id"),
        (
            '[{"image_id": true, "caption": "a"}]',
            "row 1 has no image: expected image_id or file_n",
        ),
        ('[{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}]', "for 1 image .such"),
        ('{"annotations": []}', "holds references, not results"),
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
        ('{"images": [{"sentences": []}]}', r"Karpathy's split files.* karpathy:.*refs\.json"),
        ('[{"image_id": true, "caption": "a"}]', "image_id: expected .*, found true"),
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
