"""Files of captions and references: read as written, refused where they are wrong."""

import json

import numpy as np
import pytest

from captioning.errors import OutputError, ScoreError
from captioning.metrics import read_references, read_results, restrict, write_results


def test_results_come_back_as_written(tmp_path):
    captions = {3: "a dog", 1: "café 😀", 2: ""}
    write_results(captions, tmp_path / "new" / "results.json")
    assert read_results(tmp_path / "new" / "results.json") == captions
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["results.json"]


def test_broken_text_and_other_kinds_of_integers_and_paths_are_written(tmp_path):
    captions = {np.int64(3): "a \ud83d dog", 1: "café"}
    write_results(captions, str(tmp_path / "results.json"))
    (tmp_path / "marked.json").write_bytes(
        b"\xef\xbb\xbf" + (tmp_path / "results.json").read_bytes()
    )
    for name in ("results.json", "marked.json"):
        assert read_results(str(tmp_path / name)) == captions
        assert read_references(str(tmp_path / name)) == {3: ["a \ud83d dog"], 1: ["café"]}


def test_references_are_gathered_by_image(tmp_path):
    entries = [{"image_id": 1, "caption": "a"}, {"image_id": 2, "caption": "b"}]
    entries.append({"image_id": 1, "caption": "c"})
    for content in (entries, {"images": [], "annotations": entries}):
        (tmp_path / "refs.json").write_text(json.dumps(content))
        found = read_references(tmp_path / "refs.json")
        assert found == {1: ["a", "c"], 2: ["b"]}
    assert restrict(found, {2: "x"}) == {2: ["b"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 200_000, "cannot be read as JSON"),
        ("{}", "holds no list of captions"),
        ("[]", "holds no list of captions"),
        ("[1]", "entry 0 is 1"),
        ('[{"image_id": 1}]', "entry 0 is"),
        ('[{"image_id": "1", "caption": "a"}]', "image_id of entry 0 is '1', not an integer"),
        ('[{"image_id": true, "caption": "a"}]', "is True, not an integer"),
        ('[{"image_id": 1, "caption": null}]', "caption of entry 0 is None"),
        ('[{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}]', "for 1 image .such"),
        ('{"image": "a.jpg"}\n{"image": "b.jpg"}\n', "is JSON lines.* -o results.json"),
    ],
)
def test_a_wrong_results_file_is_refused_with_the_place(tmp_path, content, message):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ScoreError, match=message) as caught:
        read_results(tmp_path / "results.json")
    assert "results.json" in str(caught.value)


def test_references_without_captions_and_missing_files_are_refused(tmp_path):
    (tmp_path / "refs.json").write_text('{"annotations": []}')
    with pytest.raises(ScoreError, match="holds no captions"):
        read_references(tmp_path / "refs.json")
    with pytest.raises(ScoreError, match=r"absent\.json does not exist"):
        read_results(tmp_path / "absent.json")
    (tmp_path / "refs.jsonl").write_text('{"image": "a.jpg"}\n{"image": "b.jpg"}\n')
    with pytest.raises(ScoreError, match=r"is JSON lines.* jsonl:.*refs\.jsonl"):
        read_references(tmp_path / "refs.jsonl")


def test_results_need_integer_ids_and_a_place_to_stand(tmp_path):
    with pytest.raises(ScoreError, match=r"'dog\.jpg' is no integer"):
        write_results({"dog.jpg": "a"}, tmp_path / "results.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_results({1: "a"}, tmp_path / "file" / "results.json")


def test_results_that_cannot_be_written_leave_nothing_behind(tmp_path, monkeypatch):
    (tmp_path / "results.json").write_text("older")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_results({1: "a dog"}, tmp_path / "results.json")
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert (tmp_path / "results.json").read_text() == "older"
