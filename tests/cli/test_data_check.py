"""``captioning data check``: planted faults, exit codes, and the names of the splits."""

import json
import shutil
from pathlib import Path

import pytest
from drawn_images import draw

from captioning.cli.main import main
from captioning.cli.progress import PhaseProgress
from captioning.datasets import CaptionData

TINY = Path(__file__).parents[2] / "data" / "tiny"
ENCODER = ("--encoder", "timm:test_resnet", "--image-size", "64")
FAULTS = {
    "captions of one word": "Dog.",
    "captions without letters": "... 123 456 !",
    "captions with a URL or HTML": "A dog at <b>home</b>.",
    "captions with control characters, line breaks or �": "A dog\x1b[31m.",
    "captions of more than 50 words": "very " * 50 + "long",
}


def check(*words):
    with pytest.raises(SystemExit) as stop:
        main(["data", "check", *map(str, words), *ENCODER, "--workers", "0"])
    return stop.value.code


def check_json(capsys, *words):
    code = check(*words, "--json")
    report = json.loads(capsys.readouterr().out)
    return code, report, {each["kind"]: each for each in report["findings"]}


def write_rows(folder, rows):
    """Write a data set with the captions of each (image, split), and draw its images."""
    lines = []
    for number, (name, split, captions) in enumerate(rows):
        draw(number).save(folder / name)
        lines.append(json.dumps({"image": name, "split": split, "captions": captions}))
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return f"jsonl:{folder}/rows.jsonl"


def test_data_check_of_good_data_counts_and_exits_0(capsys):
    code, report, findings = check_json(capsys, "--data", f"coco:{TINY}")
    sizes = {each["split"]: (each["images"], each["captions"]) for each in report["splits"]}
    assert sizes == {"train": (32, 160), "val": (8, 40), "test": (8, 40)}
    assert [each["captions_per_image"]["max"] for each in report["splits"]] == [5, 5, 5]
    # 48 images of 64 x 64 pixels; the last feature map of the encoder is 2 x 2 x 96. A position
    # in int8 also has two numbers of 4 bytes.
    grid = 48 * 4 * 96
    assert report["features"] == {
        "images": 48,
        "v_float16": 48 * 96 * 2,
        "grid_float16": 2 * grid,
        "grid_int8": grid + 48 * 4 * 8,
    }
    assert set(findings) == {"captions shared by several images"}
    assert code == 0


def test_data_check_finds_each_kind_of_bad_caption(tmp_path, capsys):
    rows = [(f"{n}.png", "train", [text]) for n, text in enumerate(FAULTS.values())]
    rows.append(("twice.png", "val", ["A cat sits.", "a cat sits"]))
    code, _, findings = check_json(capsys, "--data", write_rows(tmp_path, rows), "--show", 1)
    for number, kind in enumerate(FAULTS):
        finding = findings.pop(kind)
        assert finding["count"] == 1
        assert finding["examples"][0].startswith(f"train, {number}.png: ")
    assert findings.pop("repeated captions of an image")["count"] == 1
    assert findings == {}
    assert code == 0


def test_data_check_of_lost_entries_exits_1(tmp_path, capsys):
    names = [f"{number}.png" for number in range(7)]
    rows = [(name, "train", [f"A {name} dog."]) for name in names]
    rows += [(name, "val", [f"My {name} cat."]) for name in ("v.png", "w.png")]
    spec = write_rows(tmp_path, [*rows, ("6.png", "val", ["A dog."])])
    (tmp_path / "0.png").unlink()
    damaged = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(damaged[: len(damaged) // 2])
    shutil.copy(tmp_path / "2.png", tmp_path / "3.png")
    shutil.copy(tmp_path / "4.png", tmp_path / "v.png")
    code, _, findings = check_json(capsys, "--data", spec)
    found = {(kind, each["count"], each["loses_data"]) for kind, each in findings.items()}
    assert found == {
        ("images missing on disk", 1, True),
        ("damaged images", 1, True),
        ("files in two splits", 1, True),
        ("images with equal content in one split", 1, False),
        ("images with equal content in two splits", 1, False),
    }
    assert findings["images with equal content in two splits"]["examples"] == [
        "train, 4.png = val, v.png"
    ]
    assert code == 1
    code, _, findings = check_json(capsys, "--data", spec, "--no-images")
    assert set(findings) == {"images missing on disk", "files in two splits"}


def test_data_check_ids_in_two_coco_splits_are_lost(tmp_path, capsys):
    for split, name in (("train", "a.png"), ("val", "b.png")):
        draw(1).save(tmp_path / name)
        image = {"id": 7, "file_name": name}
        content = {"images": [image], "annotations": [{"id": 1, "image_id": 7, "caption": "A."}]}
        (tmp_path / f"captions_{split}.json").write_text(json.dumps(content))
    (tmp_path / "images").symlink_to(tmp_path)
    code, _, findings = check_json(capsys, "--data", f"coco:{tmp_path}", "--no-images")
    assert findings["image ids in two splits"]["examples"] == ["b.png in train and val"]
    assert code == 1


def test_data_check_shared_training_images_are_not_lost(tmp_path, capsys):
    specs = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        rows = [("0.png", "train", ["A dog."]), ("1.png", "val", ["A cat."])]
        specs.append(write_rows(folder, rows))
    for name in ("0.png", "1.png"):  # in both data sets, under one name
        (tmp_path / "b" / name).unlink()
    specs[1] += f"@{tmp_path}/a"
    code, _, findings = check_json(capsys, "--data", *specs)
    assert set(findings) == {"captions shared by several images"}
    assert code == 0


def test_data_check_of_unsplit_captions_names_the_tokenizer(tmp_path, capsys):
    rows = [(f"{n}.png", "train", ["两只狗在草地上玩耍"]) for n in range(3)]
    spec = write_rows(tmp_path, rows)
    code, _, findings = check_json(capsys, "--data", spec, "--no-images")
    assert any("--tokenizer characters" in kind for kind in findings)
    command = ("--data", spec, "--no-images", "--tokenizer", "characters")
    code, report, findings = check_json(capsys, *command)
    assert set(findings) == {"captions shared by several images"}
    assert report["splits"][0]["words"]["median"] == 9
    assert code == 0


def test_data_check_coverage_counts_words_by_threshold(tmp_path, capsys):
    rows = [("0.png", "train", ["a a a dog", "a cat dog"]), ("1.png", "val", ["a dog owl cat"])]
    _, report, _ = check_json(capsys, "--data", write_rows(tmp_path, rows), "--no-images")
    found = [tuple(row.values()) for row in report["vocabulary"]]
    # Of 7 training words, 4 are "a", 2 "dog", 1 "cat"; of 4 validation words, "owl" is new.
    assert found == [
        (1, 3, 1.0, 3 / 4),
        (2, 2, 6 / 7, 2 / 4),
        (3, 1, 4 / 7, 1 / 4),
        (5, 0, 0.0, 0.0),
        (10, 0, 0.0, 0.0),
    ]
    assert report["splits"][0]["words"] == {"min": 3, "median": 3, "p95": 4, "max": 4}


def test_data_check_of_file_without_splits_reads_it_whole(capsys):
    spec = f"coco:{TINY}/annotations/captions_val.json"
    _, report, findings = check_json(capsys, "--data", spec, "--no-images")
    assert [(each["split"], each["images"]) for each in report["splits"]] == [("all", 8)]
    assert [row["validation"] for row in report["vocabulary"]] == [None] * 5
    assert "files in two splits" not in findings
    check("--data", spec, "--no-images")
    assert "--val-fraction 0.1" in " ".join(capsys.readouterr().out.split())


def test_data_check_table_escapes_control_characters(tmp_path, capsys):
    spec = write_rows(tmp_path, [("0.png", "train", ["A dog."])])
    with (tmp_path / "rows.jsonl").open("a") as file:
        row = {"image": "\x1b[31mred.png", "split": "train", "captions": ["A cat\x1b[31m."]}
        file.write(f"\n{json.dumps(row)}")
    assert check("--data", spec, "--no-images") == 1
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\\x1b[31mred.png" in shown


def test_data_check_without_readable_split_exits_1(tmp_path, capsys):
    assert check("--data", f"coco:{tmp_path}/nowhere.json") == 1
    assert "nowhere.json': no such file" in capsys.readouterr().err


def test_data_check_that_shows_no_examples_names_the_reason(tmp_path, capsys):
    assert check("--data", f"coco:{tmp_path}/nowhere.json", "--show", "0") == 1
    assert "nowhere.json': no such file" in capsys.readouterr().err


def test_data_check_vocabulary_includes_data_without_splits(tmp_path, capsys):
    first = write_rows(tmp_path, [("a.png", "train", ["one"]), ("b.png", "val", ["one"])])
    (tmp_path / "whole.jsonl").write_text('{"image": "a.png", "caption": "two"}')
    _, report, _ = check_json(capsys, "--data", first, f"jsonl:{tmp_path}/whole.jsonl")
    assert report["vocabulary"][0]["words"] == 2


def test_data_check_link_to_a_validation_image_is_lost(tmp_path, capsys):
    data = write_rows(tmp_path, [("a.png", "train", ["one"]), ("b.png", "val", ["two"])])
    (tmp_path / "a.png").unlink()
    (tmp_path / "a.png").symlink_to("b.png")
    _, _, findings = check_json(capsys, "--data", data)
    assert findings["files in two splits"]["loses_data"]


@pytest.mark.parametrize(("words", "code"), [((), 2), (("--help",), 0), (("chek",), 2)])
def test_data_without_command_lists_its_commands(words, code, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["data", *words])
    assert stop.value.code == code
    assert "data check" in "".join(capsys.readouterr())


def test_data_check_reports_the_progress_of_all_images(capsys, monkeypatch):
    seen = set()
    monkeypatch.setattr(PhaseProgress, "start", lambda self, name: seen.add((name, None)))
    monkeypatch.setattr(PhaseProgress, "update", lambda self, *counts: seen.add(counts))
    assert check("--data", f"coco:{TINY}") == 0
    assert {("Checking captions of train", None), ("Decoding images", None)} < seen
    assert {(0, 32), (32, 32), (48, 48)} < seen


# Names of the splits


def test_splits_of_coco_folder_are_those_of_its_files(tmp_path):
    assert CaptionData(f"coco:{TINY}").splits == ("train", "val", "test")
    assert CaptionData(f"coco:{TINY}/annotations/captions_val.json").splits == ()
    for name in ("captions_val2017.json", "captions_train2017.json", "captions_val2014.json"):
        (tmp_path / name).write_text("{}")
    assert CaptionData(f"coco:{tmp_path}").splits == ("train", "val")


def test_splits_of_karpathy_file_put_restval_second(tmp_path):
    splits = ("val", "restval", "test", "train", "val")
    image = {"filename": "a.jpg", "imgid": 1, "sentences": []}
    images = [{**image, "split": split} for split in splits]
    (tmp_path / "d.json").write_text(json.dumps({"images": images}))
    assert CaptionData(f"karpathy:{tmp_path}/d.json").splits == ("train", "restval", "val", "test")


def test_splits_of_tables_are_normalized(tmp_path):
    (tmp_path / "a.csv").write_text("image,caption,split\na,b,extra\na,b,dev\na,b,train\n")
    assert CaptionData(f"csv:{tmp_path}/a.csv@{tmp_path}").splits == ("train", "val", "extra")
    (tmp_path / "b.csv").write_text("image,caption\na,b\n")
    assert CaptionData(f"csv:{tmp_path}/b.csv").splits == ()


def test_splits_of_placeholder_are_the_files_that_exist(tmp_path):
    for name in ("validation", "train", "x[1]"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.jsonl").write_text("")
    (tmp_path / "other").mkdir()
    found = CaptionData(f"jsonl:{tmp_path}/{{split}}/{{split}}.jsonl@{tmp_path}/{{split}}").splits
    assert found == ("train", "val", "x[1]")


def test_splits_of_flickr8k_are_its_lists(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("Flickr8k.token.txt", "Flickr_8k.devImages.txt", "Flickr_8k.trainImages.txt"):
        (tmp_path / name).write_text("a.jpg\n" if "Images" in name else "")
    assert CaptionData(f"flickr8k:{tmp_path}").splits == ("train", "val")
