"""Inputs, rows and restarts of runs on a cluster, with an actor in this process."""

import io
import json
import os
import tarfile

import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from caption_runs import read_rows
from drawn_images import draw
from output_rows import read_folder, sort_rows
from small_captioner import write_photos

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos", 5)


@pytest.fixture
def captions(photos, captioner):
    """The caption of each image by its content."""
    return {path.read_bytes(): captioner(path).text for path in photos}


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_mixed_inputs_each_give_a_row(caption, photos, captions, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    contents = [path.read_bytes() for path in photos]
    write_tar(tmp_path / "a.tar", [("1.jpg", contents[0]), ("1.txt", b"x"), ("2.jpg", b"no")])
    pq.write_table(pa.table({"bytes": contents, "id": range(5)}), "b.parquet", row_group_size=2)
    records = [
        {"bytes": contents[1], "path": "x.jpg"},
        {"bytes": None, "path": "photos/photo3.jpg"},
    ]
    pq.write_table(pa.table({"image": records, "id": [8, 9]}), "c.parquet")
    (tmp_path / "list.parquet").write_bytes(b"")
    pq.write_table(pa.table({"url": ["photos/photo4.jpg", None], "id": [6, 7]}), "list.parquet")
    inputs = (*photos, "a.tar", "b.parquet", "c.parquet", "list.parquet", "missing.jpg")
    ran = caption(*inputs, "-o", "out", "--partition-size", 3)
    assert ran.code == 1, ran.err
    rows = read_folder(tmp_path / "out")
    texts = [captions[content] for content in contents]
    assert [row["text"] for row in rows] == [
        *texts,
        *(texts[0], None),
        *texts,
        *(texts[1], texts[2]),
        *(texts[3], None),
        None,
    ]
    assert [row["file_name"] for row in rows][5:] == [
        *("../a.tar/1.jpg", "../a.tar/2.jpg"),
        *(f"../b.parquet/{number}" for number in range(5)),
        *("../c.parquet/0", "../photos/photo3.jpg"),
        *("../photos/photo4.jpg", "../list.parquet/1"),
        "../missing.jpg",
    ]
    assert [bool(row["error"]) for row in rows] == [row["text"] is None for row in rows]
    assert "no image data" not in ran.err
    assert "3 of 17 images could not be captioned" in ran.err


def test_output_is_read_as_one_table_by_other_programs(caption, photos, tmp_path):
    assert caption(*photos, "-o", tmp_path / "out", "--partition-size", 2).code == 0
    assert len(pd.read_parquet(tmp_path / "out")) == 5
    table = pyarrow.dataset.dataset(tmp_path / "out").to_table()
    assert table.column_names == ["file_name", "text", "log_prob", "error"]
    made_by = json.loads(
        pq.read_schema(tmp_path / "out/part-00000.parquet").metadata[b"captioning"]
    )
    assert (made_by["model"], made_by["search"]["width"]) == ("Small", 2)
    assert (
        json.loads((tmp_path / "out/.captioning/run.json").read_text())["settings"]["made_by"]
        == made_by
    )
    flags = ("--format", "jsonl", "--n", 2)
    assert caption(*photos, "-o", tmp_path / "lines", *flags).code == 0
    from datasets import load_dataset

    lines = load_dataset(
        "json", data_dir=str(tmp_path / "lines"), split="train", cache_dir=tmp_path
    )
    assert lines["text"] == table["text"].to_pylist()
    assert [len(captions) for captions in lines["captions"]] == [2] * 5


def test_kept_columns_have_the_types_of_the_input(caption, photos, tmp_path):
    contents = [path.read_bytes() for path in photos]
    table = pa.table(
        {
            "image": contents,
            "id": pa.array(range(5), pa.int32()),
            "text": ["alt"] * 5,
            "tags": [["a"], [], None, ["b"], []],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    flags = ("-o", tmp_path / "out", "--keep-columns", "id", "text", "tags")
    assert caption(tmp_path / "a.parquet", *flags).code == 0
    rows = pq.read_table(tmp_path / "out/part-00000.parquet")
    assert rows["id"].equals(table["id"])
    assert rows["tags"].equals(table["tags"])
    assert rows["input_text"].to_pylist() == ["alt"] * 5
    pq.write_table(table.select(["image"]).append_column("id", pa.nulls(5)), tmp_path / "b.parquet")
    inputs = (tmp_path / "b.parquet", tmp_path / "a.parquet")
    flags = ("--partition-size", 1, "--keep-columns", "id")
    assert caption(*inputs, "-o", tmp_path / "nulls", *flags).code == 0
    kinds = [pq.read_schema(path).field("id").type for path in (tmp_path / "nulls").glob("part-*")]
    assert kinds == [pa.int32()] * 2
    pq.write_table(table.set_column(1, "id", pa.array("abcde")), tmp_path / "b.parquet")
    ran = caption(*inputs, "-o", tmp_path / "x", *flags)
    assert ran.code == 2
    assert "column 'id' has the type string in" in ran.err
    assert "b.parquet', and int32 in" in ran.err
    assert caption(*inputs, "-o", tmp_path / "lines", *flags, "--format", "jsonl").code == 0
    assert [row["id"] for row in read_folder(tmp_path / "lines")] == [*"abcde", *range(5)]
    ran = caption(tmp_path / "a.parquet", "-o", tmp_path / "x", "--keep-columns", "idd")
    assert ran.code == 2
    assert "has no column 'idd' to keep." in ran.err
    assert "Did you mean 'id'?" in ran.err


def test_limit_counts_images_of_all_inputs(caption, photos, tmp_path):
    contents = [path.read_bytes() for path in photos]
    write_tar(tmp_path / "a.tar", [(f"{n}.jpg", content) for n, content in enumerate(contents)])
    pq.write_table(pa.table({"bytes": contents}), tmp_path / "b.parquet")
    inputs = (*photos, tmp_path / "a.tar", tmp_path / "b.parquet")
    for limit in (3, 7, 12):
        output = tmp_path / f"out{limit}"
        assert caption(*inputs, "-o", output, "--limit", limit).code == 0
        assert len(read_folder(output)) == limit


def test_duplicates_are_captioned_once_in_a_resumed_run(caption, photos, tmp_path, in_process):
    for number in (2, 4):
        photos[number].write_bytes(photos[0].read_bytes())
    flags = ("-o", tmp_path / "out", "--skip-duplicates", "--partition-size", 2)
    assert caption(*photos, *flags).code == 0
    whole = read_folder(tmp_path / "out")
    duplicate = "duplicate of '../photos/photo1.jpg'."
    assert [row["error"] for row in whole] == [None, None, duplicate, None, duplicate]
    for number in (1, 2):
        (tmp_path / f"out/.captioning/done/{number:05}.json").unlink()
    in_process.clear()
    ran = caption(*photos, *flags)
    assert ran.code == 0
    assert in_process == [1, 2]
    assert read_folder(tmp_path / "out") == whole
    assert "2 images have no caption: too small, or duplicates." in ran.err
    assert caption(*photos, "-o", tmp_path / "new", "--skip-rows-of", tmp_path / "out").code == 0
    assert read_folder(tmp_path / "new") == []


def test_rows_of_earlier_outputs_are_skipped(caption, photos, tmp_path, monkeypatch):
    photos[1].write_bytes(b"")
    folder = photos[0].parent
    assert caption(folder, "-o", tmp_path / "old", "--format", "jsonl").code == 1
    write_photos(folder, 1, start=6)
    photos[1].write_bytes(photos[0].read_bytes())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    ran = caption("../photos", "-o", "new", "--skip-rows-of", tmp_path / "old")
    assert ran.code == 0
    names = sorted(row["file_name"] for row in read_folder(tmp_path / "elsewhere/new"))
    assert names == ["../../photos/photo2.jpg", "../../photos/photo6.jpg"]
    ran = caption("../photos", "-o", "third", "--skip-rows-of", "../old", "new/part-00000.parquet")
    assert ran.code == 0
    assert read_folder(tmp_path / "elsewhere/third") == []
    ran = caption("../photos", "-o", "x", "--skip-rows-of", tmp_path)
    assert ran.code == 2
    assert "has no rows. Check the path." in ran.err


def test_small_images_get_a_row_with_the_reason(caption, tmp_path):
    (tmp_path / "photos").mkdir()
    draw(1, (400, 99)).save(tmp_path / "photos/a.jpg")  # larger than the size of decoding
    draw(1, (400, 100)).save(tmp_path / "photos/b.jpg")
    ran = caption(tmp_path / "photos", "-o", tmp_path / "out", "--min-side", 100, "--json")
    assert ran.code == 0
    small, large = sort_rows(read_folder(tmp_path / "out"))
    assert small["error"].endswith("a.jpg' is smaller than 100 pixels: it has 400 x 99 pixels.")
    assert large["text"]
    summary = json.loads(ran.out)
    assert (summary["captioned"], summary["failed"], summary["skipped_images"]) == (1, 0, 1)
    (tmp_path / "is smaller than 9 pixels: it has.jpg").write_bytes(b"")
    ran = caption(tmp_path / "is smaller than 9 pixels: it has.jpg", "-o", tmp_path / "x", "--json")
    assert json.loads(ran.out)["failed"] == 1


def test_resume_with_other_settings_or_files_is_refused(caption, photos, tmp_path):
    output = tmp_path / "out"
    assert caption(photos[0].parent, "-o", output).code == 0
    rows = read_folder(output)
    ran = caption(photos[0].parent, "-o", output, "--width", 1)
    assert ran.code == 2
    assert "--width was 2 and is now 1" in ran.err
    write_photos(photos[0].parent, 1, start=6)
    assert caption(photos[0].parent, "-o", output).code == 0
    assert read_folder(output) == rows  # the inputs are listed once
    assert caption(photos[0].parent, "-o", output, "--overwrite", "--limit", 1).code == 0
    assert len(read_folder(output)) == 1
    ran = caption(photos[0].parent, "-o", tmp_path, "--overwrite")
    assert ran.code == 2
    assert "is not empty and is not the output of a run on Ray" in ran.err


def test_interrupted_listing_starts_again(caption, photos, tmp_path, monkeypatch):
    from captioning.bulk.cluster.storage import OutputFolder

    real = OutputFolder.write_inputs

    def fail_at_second(self, inputs, partition, lines):
        if partition == 1:
            raise KeyboardInterrupt
        real(self, inputs, partition, lines)

    flags = ("-o", tmp_path / "out", "--partition-size", 2)
    with monkeypatch.context() as patch:
        patch.setattr(OutputFolder, "write_inputs", fail_at_second)
        assert caption(*photos, *flags).code == 130
    assert caption(*photos, *flags).code == 0
    assert len(read_folder(tmp_path / "out")) == 5


def test_interrupted_overwrite_can_be_repeated(caption, photos, tmp_path, monkeypatch):
    from fsspec.implementations.local import LocalFileSystem

    real, output = LocalFileSystem.rm_file, tmp_path / "out"

    def fail_at_inputs(self, path):
        if "/inputs-" in path:
            raise KeyboardInterrupt
        real(self, path)

    assert caption(*photos, "-o", output).code == 0
    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "rm_file", fail_at_inputs)
        assert caption(*photos, "-o", output, "--overwrite").code == 130
    assert caption(*photos[:2], "-o", output, "--overwrite").code == 0
    assert len(read_folder(output)) == 2


def test_folder_name_with_brackets_resumes(caption, photos, tmp_path):
    output = tmp_path / "out [1]"
    assert caption(*photos[:2], "-o", output).code == 0
    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    assert caption(*photos[:2], "-o", output).code == 0
    assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == before
    assert caption(photos[0], "-o", output, "--overwrite").code == 0
    assert len(read_folder(output)) == 1


def test_flag_without_effect_is_reported(caption, photos, tmp_path):
    ran = caption(photos[0], "-o", tmp_path / "out", "--seed", 1)
    assert "--seed has no effect without --search sampling." in ran.err


def test_decoder_crash_fails_one_image_only(model, photos, tmp_path, monkeypatch):
    crash = "from captioning.images import worker, decode; import os; real = worker.read_image\n"
    crash += "def read(source, **k):\n    if 'photo3' in str(source): os.abort()\n"
    crash += "    return real(source, **k)\nworker.read_image = read; worker.main(sys.argv[2])"
    monkeypatch.setattr("captioning.images.worker_pool.WORKER_CODE", crash)
    from caption_runs import run_command

    words = (photos[0].parent, "--engine", "ray", "-o", tmp_path / "out", "--model", model)
    assert run_command("caption", *words, "--workers", "1", "--partition-size", 3) == 1
    rows = sort_rows(read_folder(tmp_path / "out"))
    assert [row["text"] is None for row in rows] == [False, False, True, False, False]
    assert "its decoder crashed (SIGABRT)" in rows[2]["error"]


def test_names_that_are_not_utf8_keep_their_rows(caption, tmp_path):
    (photo,) = write_photos(tmp_path, 1)
    (tmp_path / "odd").mkdir()
    os.link(photo, os.fsdecode(os.fsencode(tmp_path / "odd") + b"/no utf-8 \xff\n.jpg"))
    assert caption(tmp_path / "odd", "-o", tmp_path / "out").code == 0
    (row,) = read_folder(tmp_path / "out")
    assert row["file_name"] == "../odd/no utf-8 \\udcff\n.jpg"
    assert row["text"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("-o", "x.jsonl"), "writes a folder with one file per partition"),
        (("-o", "x.CSV"), "writes a folder with one file per partition"),
        ((), "writes a folder with one file per partition"),
        (("-o", "x", "--format", "csv"), "writes parquet or jsonl, not csv"),
        (("-o", "x", "--partition", "1/2"), "--partition cannot be used with --engine ray"),
        (("-o", "x", "--min-actors", 3, "--max-actors", 2), "--max-actors is 2"),
        (("-o", "x", "--keep-columns", "a", "--engine", "local"), "--keep-columns needs"),
    ],
)
def test_flags_that_exclude_each_other_are_refused(caption, photos, flags, message, capsys):
    from caption_runs import run_command

    words = ("caption", photos[0], "--engine", "ray", *flags)
    assert run_command(*words) == 2
    assert message in capsys.readouterr().err


def test_dry_run_counts_images_and_files(caption, photos, tmp_path):
    ran = caption(*photos, "-o", tmp_path / "out", "--partition-size", 2, "--dry-run")
    assert f"Would write captions of 5 images into 3 parquet files in {tmp_path}/out." in ran.out
    assert not (tmp_path / "out").exists()


def test_failed_list_of_rows_is_readable_by_convert(caption, photos, tmp_path, capsys):
    from caption_runs import run_command

    photos[2].write_bytes(b"")
    assert caption(*photos, "-o", tmp_path / "out", "--format", "jsonl").code == 1
    part = tmp_path / "out/part-00000.jsonl"
    assert run_command("convert", part, "-o", tmp_path / "all.jsonl") == 0
    assert len(read_rows(tmp_path / "all.jsonl")) == 4
    (failed,) = read_rows(tmp_path / "all.jsonl.failed.jsonl")
    assert failed["file_name"] == "photos/photo3.jpg"
