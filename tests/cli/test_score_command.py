"""What score says where it has no results to score, or only some."""

import json
from pathlib import Path

import pytest

from captioning.cli.main import main

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
    assert "lines.jsonl says by the files' names what its captions are of, such as 1.jpg" in said
    assert "references.json names no files. Give the data set (coco:DIR)" in said


def test_how_many_images_are_left_out_is_said(references, tmp_path, capsys):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(REFERENCES[:1]))
    assert run("score", path, references) == 1
    said = capsys.readouterr().err
    assert "has no caption for 1 image of the 2 of " in said
    assert "(such as 2). Give --subset" in said
    assert run("score", path, references, "--subset") == 0
    assert "Left out, without a result: 1 annotated image\n" in capsys.readouterr().err


@pytest.fixture
def people():
    """The captions of people for the images of val, by the name of the file."""
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
    """Each image has a caption of its own people: only if all are matched is the score whole."""
    path = written(tmp_path / name, dict(reversed(people.items())))
    data = f"coco:{TINY}" if by == "data set" else TINY / "annotations" / "captions_val.json"
    assert run("score", path, data, "--json") == 0
    assert json.loads(capsys.readouterr().out)["scores"]["bleu_4"] == pytest.approx(1.0)
    assert run("compare", path, path, data, "--samples", 5) == 0


def test_images_of_other_splits_and_failed_ones_are_left_out(people, tmp_path, capsys):
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
    assert "such as ../photos/000001.png, is among the images of coco:" in said


@pytest.fixture
def four(tmp_path):
    """Four images in two folders, two of which have the same name."""

    def make(*names):
        images = [{"id": key, "file_name": name} for key, name in enumerate(names, 1)]
        said = [{"image_id": key, "caption": CAPTIONS[key - 1]} for key in range(1, 5)]
        path = tmp_path / "four.json"
        path.write_text(json.dumps({"images": images, "annotations": said}))
        return path

    return make


CAPTIONS = ("a dog runs", "two cats sleep on a bed", "a red ball", "the sea at night")


def results(path, names, ids=(1, 2, 3, 4)):
    rows = [
        {"image_id": key, "file_name": name, "caption": caption}
        for key, name, caption in zip(ids, names, CAPTIONS, strict=True)
    ]
    if path.suffix == ".jsonl":
        lines = [{k: v for k, v in row.items() if k != "image_id"} for row in rows]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        path.write_text(json.dumps(rows))
    return path


def test_right_ids_count_for_more_than_names_that_coincide(four, tmp_path, capsys):
    path = results(tmp_path / "r.json", [f"web/{key % 4 + 1}.jpg" for key in range(1, 5)])
    assert run("score", path, four(*(f"{key}.jpg" for key in range(1, 5))), "--json") == 0
    assert json.loads(capsys.readouterr().out)["scores"]["bleu_1"] == pytest.approx(1.0)


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_folders_tell_files_of_the_same_name_apart(ending, four, tmp_path, capsys):
    names = ("a/1.jpg", "b/1.jpg", "a/3.jpg", "a/4.jpg")
    ids = range(10**12, 10**12 + 4)
    path = results(tmp_path / f"r.{ending}", [f"/photos/{name}" for name in names], ids)
    assert run("score", path, four(*names), "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["scores"]["bleu_1"] == pytest.approx(1.0)
    assert "matched by the names of files, such as /photos/a/1.jpg" in said.err
    path = results(tmp_path / f"r.{ending}", ("1.jpg", "c/1.jpg", "3.jpg", "4.jpg"), ids)
    assert run("score", path, four(*names)) == 1
    assert "1.jpg may be a/1.jpg or b/1.jpg of " in capsys.readouterr().err
    twice = results(tmp_path / f"r.{ending}", ("3.jpg", "x/3.jpg", "y/4.jpg", "a/1.jpg"), ids)
    assert run("score", twice, four(*names)) == 1
    assert "more than one caption for one image" in capsys.readouterr().err


def test_images_that_are_odd_or_not_annotated_are_passed_over(four, tmp_path, capsys):
    path = four("1.jpg", "2.jpg", "3.jpg", "4.jpg")
    content = json.loads(path.read_text())
    odd = [{"id": [1], "file_name": "5.jpg"}, {"id": "6", "file_name": "6.jpg"}, 7]
    content["images"] += [*odd, {"id": 8, "file_name": "8.jpg"}, content["images"][0]]
    path.write_text(json.dumps(content))
    rows = results(tmp_path / "r.jsonl", ["p/1.jpg", "p/2.jpg", "p/3.jpg", "p/4.jpg"])
    more = {"file_name": "p/8.jpg", "caption": "nobody said anything"}
    rows.write_text(rows.read_text() + json.dumps(more) + "\n")
    assert run("score", rows, path, "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["scores"]["bleu_1"] == pytest.approx(1.0)
    assert ": 1 file\n" in said.err


def test_cut_lines_and_photos_without_captions_are_named(four, tmp_path, capsys):
    path = tmp_path / "r.jsonl"
    path.write_text('{"file_name": "1.jpg", "caption": "a dog"}\n{"file_name": "2.j')
    assert run("score", path, four(*"abcd")) == 1
    assert "r.jsonl, line 2 is no row of JSON" in capsys.readouterr().err
    path.write_text('{"file_name": "1.jpg", "error": "it is empty"}\n')
    assert run("score", path, four(*"abcd")) == 1
    assert "None of the 1 photo in " in capsys.readouterr().err
    path = results(tmp_path / "r.jsonl", ["p/1.jpg", "p/2.jpg", "p/3.jpg", "p/5.jpg"])
    assert run("compare", path, path, four("1.jpg", "2.jpg", "3.jpg", "4.jpg")) == 1
    assert "has no caption for 1 image of the 4 of" in (said := capsys.readouterr().err)
    assert "(such as 4.jpg). Caption the rest." in said


def test_a_row_whose_caption_is_no_string_is_named(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"file_name": "000033.png", "caption": 7}\n')
    assert run("score", path, f"coco:{TINY}") == 1
    assert "the caption of row 1 is 7, not a string" in capsys.readouterr().err
