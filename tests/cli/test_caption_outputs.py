"""``captioning caption``: output formats, and where an output may be written."""

import os
import stat
import threading
from pathlib import Path

import pandas
import pytest
import torch
from caption_runs import parse_rows, read_rows
from pycocotools.coco import COCO
from small_captioner import write_photos

from captioning.datasets import read_captions
from captioning.inference.generation import CaptionGenerator


def test_coco_results_load_in_pycocotools(caption, tmp_path, capsys):
    write_photos(tmp_path, 3, start=7, name="COCO_train2014_")
    assert caption(tmp_path, "-o", tmp_path / "results.json").code == 0
    references = COCO()
    references.dataset = {
        "images": [{"id": number} for number in (7, 8, 9)],
        "annotations": [{"id": 1, "image_id": 7, "caption": "x"}],
    }
    references.createIndex()
    results = references.loadRes(str(tmp_path / "results.json"))
    assert sorted(results.getImgIds()) == [7, 8, 9]
    assert all(each["caption"] for each in results.anns.values())


def test_jsonl_loads_as_imagefolder_and_training_data(caption, photos):
    output = photos[0].parent / "metadata.jsonl"
    assert caption(photos[0].parent, "-o", output, "--n", "2").code == 0
    for row, photo in zip(read_rows(output), photos, strict=True):
        assert row["file_name"] == photo.name
        assert row["text"] == row["captions"][0]
        assert row["log_prob"] == row["log_probs"][0] >= row["log_probs"][1]
    (split,) = [read_captions(f"jsonl:{output}", split="train")]
    expected = [row["text"] for row in read_rows(output)]
    assert [image.captions[0] for image in split.images] == expected


@pytest.mark.parametrize(
    ("name", "count"),
    [("a.jsonl", 3), ("a.csv", 3), ("a.html", 3), ("a.log", 3), ("a.json", 1)],
)
def test_output_holds_all_captions_or_is_refused(name, count, caption, photos, tmp_path, decoded):
    expected = parse_rows(caption(photos[0], "--n", "3").out)[0]["captions"]
    assert len(set(expected)) == 3
    decoded.clear()
    output = tmp_path / name
    flags = ["--format", "text"] if name == "a.log" else []
    ran = caption(photos[0], "--n", "3", "-o", output, *flags)
    if count == 1:
        assert ran.code == 2
        assert "coco holds 1 caption per image, but there are 3. Add --best to" in ran.err
        assert not decoded
        assert not list(tmp_path.glob("*a.json*"))
        assert caption(photos[0], "--n", "3", "-o", output, "--best").code == 0
    text = output.read_bytes().decode("utf-8", "replace")
    assert [each in text for each in expected] == [True] * count + [False] * (3 - count)


@pytest.mark.parametrize("flags", [["--search", "diverse", "--groups", "2"], ["--n", "2"]])
def test_best_keeps_one_caption(flags, caption, photos):
    every = parse_rows(caption(*photos, *flags).out)
    best = parse_rows(caption(*photos, *flags, "--best").out)
    assert all(len(row["captions"]) == 2 for row in every)
    assert [row["text"] for row in best] == [row["text"] for row in every]
    assert all("captions" not in row for row in best)


def test_failures_without_a_list_are_all_printed(caption, tmp_path):
    for number in range(25):
        (tmp_path / f"{number}.jpg").write_bytes(b"")
    ran = caption(tmp_path, "--format", "csv")
    assert ran.err.count("file is empty") == 25
    ran = caption(tmp_path, "-o", tmp_path / "a.csv")
    assert ran.err.count("file is empty") == 20
    assert "a.csv.failed.jsonl lists all failed images." in ran.err


def test_parquet_equals_jsonl(caption, photos, tmp_path):
    photos[1].write_bytes(b"")
    for name in ("rows.parquet", "rows.jsonl"):
        assert caption(*photos, "-o", tmp_path / name, "--n", "2").code == 1
    table = pandas.read_parquet(tmp_path / "rows.parquet").to_dict("records")
    for row, line in zip(table, read_rows(tmp_path / "rows.jsonl"), strict=True):
        for name, value in line.items():
            assert list(row[name]) == value if isinstance(value, list) else row[name] == value


def test_prefix_and_suffix_enclose_captions(caption, photos):
    plain = [row["text"] for row in parse_rows(caption(*photos).out)]
    framed = caption(*photos, "--prefix", "photo of ", "--suffix", ", by me")
    expected = [f"photo of {text}, by me" for text in plain]
    assert [row["text"] for row in parse_rows(framed.out)] == expected


def test_output_in_missing_folder_creates_it(caption, photos, tmp_path):
    output = tmp_path / "new" / "folder" / "rows.jsonl"
    assert caption(photos[0], "-o", output).code == 0
    assert len(read_rows(output)) == 1


@pytest.mark.parametrize("format_name", ["jsonl", "csv", "html"])
def test_output_that_is_a_folder_is_refused(format_name, caption, photos, tmp_path):
    (tmp_path / "folder").mkdir()
    ran = caption(photos[0], "-o", tmp_path / "folder", "--format", format_name)
    assert ran.code == 1
    assert f"cannot write '{tmp_path / 'folder'}': it is a folder" in ran.err


def test_output_never_overwrites_an_image(caption, photos, tmp_path):
    before = photos[1].read_bytes()
    link = tmp_path / "rows.jsonl"
    link.symlink_to(photos[1])
    for output in (photos[1], link):
        ran = caption(photos[0].parent, "-o", output, "--format", "jsonl")
        assert ran.code == 2
        assert "is an image or another binary file" in ran.err
    assert photos[1].read_bytes() == before


def test_output_that_is_a_link_writes_its_target(caption, photos, tmp_path):
    target, link = tmp_path / "elsewhere" / "real.csv", tmp_path / "link.csv"
    target.parent.mkdir()
    link.symlink_to(target)
    assert caption(*photos, "-o", link, "--overwrite").code == 0
    assert link.is_symlink()
    assert len(target.read_text().splitlines()) == len(photos) + 1


def test_output_that_is_a_pipe_receives_rows(caption, photos, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()))
    reader.start()
    assert caption(*photos, "-o", pipe, "--format", "csv", "--overwrite").code == 0
    reader.join(20)
    assert len(received[0].splitlines()) == len(photos) + 1
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_file_names_are_relative_to_the_real_folder(caption, photos, tmp_path):
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    output = tmp_path / "link" / "out.jsonl"
    caption(photos[0].parent, "-o", output)
    found = read_rows(output)
    assert found
    assert all((tmp_path / "link" / row["file_name"]).exists() for row in found)


@pytest.mark.parametrize("format_name", ["txt", "html"])
def test_files_of_a_run_are_not_its_inputs(format_name, caption, photos, decoded):
    folder = photos[0].parent
    output = folder / ("copies" if format_name == "txt" else "page.html")
    for words in ([], [], ["--overwrite"]):
        ran = caption(folder, "--recursive", "--format", format_name, "-o", output, *words)
        assert ran.code == 0
    assert {Path(source).parent for source in decoded} == {folder}


def test_batch_too_large_for_memory_is_halved(caption, photos, monkeypatch):
    write_photos(photos[0].parent, 9)
    expected = caption(photos[0].parent).out
    sizes = []
    real = CaptionGenerator._generate_chunk

    def small(self, pixels, how):
        sizes.append(len(pixels))
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
        return real(self, pixels, how)

    monkeypatch.setattr(CaptionGenerator, "_generate_chunk", small)
    found = caption(photos[0].parent, "--batch-size", "8").out
    assert [row["text"] for row in parse_rows(found)] == [
        row["text"] for row in parse_rows(expected)
    ]
    assert sizes == [8, 4, 2, 2, 2, 2, 1]
