"""What score says where it has no results to score, or only some."""

import json

import pytest

from captioning.cli import main

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
    assert "without a candidate: 1 image (such as 2)" in capsys.readouterr().err
    assert run("score", path, references, "--subset") == 0
    assert "Left out, without a result: 1 annotated image\n" in capsys.readouterr().err
