"""What score says where it has no results to score, or only some."""

import json
from pathlib import Path

import pytest

from captioning.cli import main

TINY = Path(__file__).parents[2] / "data" / "tiny"

REFERENCES = [{"image_id": image, "caption": "a dog runs"} for image in (1, 2)]


@pytest.fixture
def references(tmp_path):
    path = tmp_path / "references.json"
    path.write_text(json.dumps({"annotations": REFERENCES}))
    return path


def run(*arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code


def test_results_that_do_not_exist_are_said(references, tmp_path, capsys):
    assert run("score", tmp_path / "nosuch.json", references) == 1
    assert "nosuch.json does not exist." in capsys.readouterr().err


def test_json_lines_are_named_with_the_way_to_results(references, tmp_path, capsys):
    rows = [{"file_name": f"{n}.jpg", "image": f"{n}.jpg", "caption": "a dog"} for n in (1, 2)]
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("score", path, references) == 1
    said = capsys.readouterr().err
    assert "lines.jsonl is JSON lines" in said
    assert "captioning caption PHOTOS -o results.json" in said


def test_how_many_images_are_left_out_is_said(references, tmp_path, capsys):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(REFERENCES[:1]))
    assert run("score", path, references) == 1
    said = capsys.readouterr().err
    assert "has captions for 1 of the 2 images" in said
    assert "none for 2 and others. Give --subset" in said
    assert run("score", path, references, "--subset") == 0
    assert "Left out, without a result: 1 annotated image\n" in capsys.readouterr().err


@pytest.fixture
def people():
    """The captions of people for the pictures of val, by the name of the file."""
    content = json.loads((TINY / "annotations" / "captions_val.json").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    return {names[entry["image_id"]]: entry["caption"] for entry in content["annotations"]}


def written(path, captions, *further):
    """Write captions of files as `captioning caption` does: numbers in the place of COCO's ids."""
    rows = [
        {"image_id": 10**12 + place, "file_name": f"../photos/{name}", "caption": caption}
        for place, (name, caption) in enumerate(captions.items())
    ]
    rows += further
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ["ours.jsonl", "ours.json"])
@pytest.mark.parametrize("by", ["data set", "annotations"])
def test_captions_are_found_by_the_names_of_their_files(name, by, people, tmp_path, capsys):
    """Each picture has a caption of its own people: only if all are matched is the score whole."""
    path = written(tmp_path / name, dict(reversed(people.items())))
    data = f"coco:{TINY}" if by == "data set" else TINY / "annotations" / "captions_val.json"
    assert run("score", path, data, "--json") == 0
    assert json.loads(capsys.readouterr().out)["scores"]["bleu_4"] == pytest.approx(1.0)
    assert run("compare", path, path, data, "--samples", 5) == 0


def test_pictures_of_other_splits_and_failed_ones_are_left_out(people, tmp_path, capsys):
    failed = {"file_name": "../photos/half.png", "error": "it is empty"}
    path = written(tmp_path / "ours.jsonl", {**people, "000001.png": "a dog"}, failed)
    assert run("score", path, f"coco:{TINY}", "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["scores"]["bleu_4"] == pytest.approx(1.0)
    assert f"as not in coco:{TINY}, val: 1 file" in said.err.replace("\n", "")


@pytest.mark.parametrize("name", ["ours.jsonl", "ours.json"])
def test_files_of_another_split_are_named(name, tmp_path, capsys):
    path = written(tmp_path / name, {"000001.png": "a dog", "000002.png": "a cat"})
    assert run("score", path, f"coco:{TINY}") == 1
    said = capsys.readouterr().err
    assert "None of the 2 files" in said
    assert "such as 000001.png, is among the images of coco:" in said


def test_ids_count_where_files_have_the_same_name_or_others(people, tmp_path, capsys):
    content = json.loads((TINY / "annotations" / "captions_val.json").read_text())
    ids = [image["id"] for image in content["images"]]
    for names in (["a/1.png", "b/1.png"], ["a/x.png", "b/y.png"]):
        rows = [
            {"image_id": key, "file_name": name, "caption": "a dog"}
            for key, name in zip(ids, names, strict=False)
        ]
        (tmp_path / "r.json").write_text(json.dumps(rows))
        assert run("score", tmp_path / "r.json", f"coco:{TINY}", "--subset") == 0
        assert "Left out, without a result: 6 annotated images" in capsys.readouterr().err


def test_a_row_whose_caption_is_no_string_is_named(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"file_name": "000033.png", "caption": 7}\n')
    assert run("score", path, f"coco:{TINY}") == 1
    assert "the caption of row 0 is 7, not a string" in capsys.readouterr().err
