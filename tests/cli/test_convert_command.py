"""``captioning convert``: files of captions in other formats, read by the formats' own readers."""

import csv
import json
import shutil
import subprocess
from pathlib import Path
from shutil import which

import pyarrow.parquet
import pytest
from caption_runs import read_rows, run_command
from pycocotools.coco import COCO
from required_tools import require_tool
from small_captioner import write_photos

from captioning.bulk.writers.failed_rows import failed_path

SUFFIXES = [".jsonl", ".csv", ".json", ".parquet"]


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    """A folder with outputs of one run in each format; the second image is damaged."""
    folder = tmp_path_factory.mktemp("finished")
    photos = write_photos(folder / "photos", 3, name="COCO_train2014_")
    photos[1].write_bytes(b"")
    flags = ("--model", model, "--workers", "0", "--precision", "float32")
    for suffix in SUFFIXES:
        output = folder / "results" / f"rows{suffix}"
        assert run_command("caption", photos[0].parent, "-o", output, *flags) == 1
    return folder


@pytest.fixture
def outputs(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path / "results"


def drop_journals(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize("source", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("target", SUFFIXES)
def test_convert_equals_output_of_caption(source, target, outputs, capsys):
    output = outputs / f"converted{target}"
    assert run_command("convert", outputs / f"rows{source}", "-o", output) == 0
    assert output.read_bytes() == (outputs / f"rows{target}").read_bytes()
    assert "Converted 3 rows." in capsys.readouterr().err
    assert failed_path(output).read_bytes() == failed_path(outputs / "rows.jsonl").read_bytes()


def test_convert_coco_results_have_no_log_probs(outputs):
    assert run_command("convert", outputs / "rows.json", "-o", outputs / "new.jsonl") == 0
    found = read_rows(outputs / "new.jsonl")
    assert [{**row, "log_prob": None} for row in read_rows(outputs / "rows.jsonl")] == found
    assert run_command("convert", outputs / "new.jsonl", "-o", outputs / "new.json") == 0
    assert (outputs / "new.json").read_bytes() == (outputs / "rows.json").read_bytes()


def test_converted_files_are_read_by_their_own_readers(outputs):
    rows = read_rows(outputs / "rows.jsonl")
    for suffix in (".csv", ".json", ".parquet"):
        run_command("convert", outputs / "rows.jsonl", "-o", outputs / f"new{suffix}")
    with (outputs / "new.csv").open(newline="") as file:
        names = [row["file_name"] for row in csv.DictReader(file)]
    assert names == [row["file_name"] for row in rows]
    table = pyarrow.parquet.read_table(outputs / "new.parquet")
    assert table.to_pylist() == rows
    references = COCO()
    references.dataset = {"images": [{"id": number} for number in (1, 2, 3)], "annotations": []}
    references.createIndex()
    assert sorted(references.loadRes(str(outputs / "new.json")).getImgIds()) == [1, 3]


def test_convert_keeps_all_captions(caption, photos, tmp_path):
    caption(*photos, "-o", tmp_path / "rows.jsonl", "--n", "2")
    run_command("convert", tmp_path / "rows.jsonl", "-o", tmp_path / "rows.parquet")
    run_command("convert", tmp_path / "rows.parquet", "-o", tmp_path / "rows.csv")
    run_command("convert", tmp_path / "rows.csv", "-o", tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "rows.jsonl").read_bytes()
    assert len(read_rows(tmp_path / "again.jsonl")[0]["captions"]) == 2


def test_convert_to_one_caption_is_refused_without_best(run_file, tmp_path, capsys):
    output = tmp_path / "new.json"
    assert run_command("convert", run_file, "-o", output) == 2
    assert "coco holds 1 caption per image, but there are 2. Add --best" in capsys.readouterr().err
    assert not output.exists()
    assert run_command("convert", run_file, "-o", output, "--best") == 0
    best = [row["text"] for row in read_rows(run_file)]
    assert [row["caption"] for row in json.loads(output.read_text())] == best


@pytest.mark.parametrize("absolute", [False, True])
def test_convert_keeps_file_names_valid(absolute, caption, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos[0].parent.parent)
    folder = photos[0].parent if absolute else photos[0].parent.name
    caption(folder, "-o", tmp_path / "rows.jsonl")
    output = tmp_path / "far" / "away" / "rows.csv"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run_command("convert", tmp_path / "rows.jsonl", "-o", output) == 0
    with output.open(newline="") as file:
        names = [row["file_name"] for row in csv.DictReader(file)]
    assert len(names) == 3
    assert all((output.parent / name).is_file() for name in names)


def test_convert_to_html_links_to_the_images(outputs):
    assert run_command("convert", outputs / "rows.jsonl", "-o", outputs / "page.html") == 0
    page = (outputs / "page.html").read_text()
    assert page.count('src="../photos/COCO_train2014_') == 2
    assert "2 captioned, 1 could not be read." in page


def test_convert_writes_to_stdout(outputs, capsys):
    assert run_command("convert", outputs / "rows.csv") == 0
    out = capsys.readouterr().out
    names = [Path(json.loads(line)["file_name"]).name for line in out.splitlines()]
    assert names == [f"COCO_train2014_{number}.jpg" for number in (1, 2, 3)]
    assert run_command("convert", outputs / "rows.csv", "--format", "text") == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert run_command("convert", outputs / "rows.csv", "--overwrite") == 0
    assert "--overwrite has no effect on standard output." in capsys.readouterr().err


def test_convert_keeps_names_of_any_bytes(caption, odd_photos, tmp_path):
    caption(tmp_path / "odd", "-o", tmp_path / "rows.jsonl")
    for suffix in (".jsonl", ".csv"):
        output = tmp_path / f"new{suffix}"
        assert run_command("convert", tmp_path / "rows.jsonl", "-o", output) == 0
    assert (tmp_path / "new.jsonl").read_bytes() == (tmp_path / "rows.jsonl").read_bytes()
    assert run_command("convert", tmp_path / "new.csv", "-o", tmp_path / "again.csv") == 0
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "new.csv").read_bytes()


@pytest.fixture
def run_file(caption, photos):
    """JSON lines with two captions of each of three images, next to the folder of the images."""
    path = photos[0].parent.parent / "rows.jsonl"
    assert caption(photos[0].parent, "-o", path, "--n", "2").code == 0
    return path


def read_description(path):
    command = ["exiftool", "-b", "-XMP-dc:Description", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("format_name", ["txt", "caption"])
def test_convert_writes_text_next_to_moved_images(format_name, run_file, tmp_path, monkeypatch):
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.move(tmp_path / "photos", moved / "photos")
    monkeypatch.chdir(moved)
    run_file = run_file.rename(moved / "rows.jsonl")
    assert run_command("convert", run_file, "--format", format_name) == 0
    for number, row in enumerate(read_rows(run_file), 1):
        text = moved / "photos" / f"photo{number}.{format_name}"
        assert text.read_text().splitlines() == row["captions"]


@require_tool("exiftool", bool(which("exiftool")))
@pytest.mark.parametrize(("format_name", "suffix"), [("xmp", ".xmp"), ("embed", ".jpg")])
def test_convert_writes_metadata_that_exiftool_reads(format_name, suffix, run_file, tmp_path):
    out = tmp_path / "out"
    assert run_command("convert", run_file, "--format", format_name, "-o", out) == 0
    for number, row in enumerate(read_rows(run_file), 1):
        assert read_description(out / "photos" / f"photo{number}{suffix}") == row["captions"]


def test_convert_keeps_appends_or_replaces_text(run_file, photos, capsys):
    text = photos[0].with_suffix(".txt")
    text.write_text("mine\n")
    captions = read_rows(run_file)[0]["captions"]
    for flags, expected in [
        ([], ["mine"]),
        (["--append"], ["mine", *captions]),
        (["--append"], ["mine", *captions]),
        (["--overwrite"], captions),
    ]:
        assert run_command("convert", run_file, "--format", "txt", *flags) == 0
        assert text.read_text().splitlines() == expected
    assert "Skipped 1 image with existing captions." in capsys.readouterr().err


def test_convert_reports_rows_without_output(run_file, photos, tmp_path, capsys):
    photos[0].unlink()
    (tmp_path / "out" / "photos" / "photo2.txt").mkdir(parents=True)
    rows = [{"file_name": "http://h/a.jpg", "text": "a"}, {"file_name": "b", "error": "no b.jpg"}]
    with run_file.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    words = ["convert", run_file, "--format", "txt", "--overwrite"]
    assert run_command(*words, "-o", tmp_path / "out") == 1
    err = capsys.readouterr().err
    assert "3 of 5 images could not be captioned:" in err
    for reason in ("photo1.jpg'. Move the image back", "photo2.txt': it is a folder", "no b.jpg"):
        assert reason in err
    assert (tmp_path / "out" / "photos" / "photo3.txt").read_text()
    assert (tmp_path / "out" / "http" / "h" / "a.jpg.txt").read_text() == "a\n"
    assert run_command(*words) == 1
    assert "cannot write to 'http://h/a.jpg': it is not a file." in capsys.readouterr().err
    assert photos[1].with_suffix(".txt").is_file()
    assert not photos[0].with_suffix(".txt").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["page.html"], "captions cannot be read from an HTML page"),
        (["rows.txt"], "its file extension is not one of .jsonl, .csv, .json, .parquet"),
        (["none.jsonl"], "none.jsonl': no such file. Check the path."),
        (["rows.jsonl", "-o", "rows.jsonl"], "is also an input"),
        (["rows.jsonl", "-o", "rows.csv"], "rows.csv' exists. Use --overwrite"),
        (["rows.jsonl", "-o", "rows.xyz"], "cannot derive the format of"),
        (["rows.jsonl", "--append"], "--append needs one output per image"),
        (["rows.jsonl", "--keep-time"], "--keep-time needs --format embed"),
        (["rows.jsonl", "-o", "../photos/COCO_train2014_1.jpg", "--format", "csv"], "is an image"),
    ],
)
def test_convert_wrong_usage_exits_with_2(words, reason, outputs, capsys):
    before = drop_journals(outputs)
    assert (
        run_command("convert", *(w if w[0] == "-" or w == "csv" else outputs / w for w in words))
        == 2
    )
    assert reason in capsys.readouterr().err
    assert drop_journals(outputs) == before


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (
            "a.jsonl",
            b'{"file_name": "a.jpg"}\n',
            "line 1 of '{}': it has neither a text nor an error",
        ),
        (
            "a.jsonl",
            b'{"file_name": 3}\n',
            "line 1 of '{}': Expected `str`, got `int` - at `$.file_",
        ),
        ("a.jsonl", b'{"file_name": "a", "error": "b"}\n{"im', "line 2 of '{}': "),
        ("a.jsonl", b"[]\n", "line 1 of '{}': Expected `object`"),
        ("a.jsonl", b"\xff\xfe\n", "line 1 of '{}': "),
        ("a.jsonl", b'{"file_name":"a","captions":["b"],"log_probs":[]}', "log_probs differ"),
        ("a.csv", b"file_name,x\r\na,b\r\n", "line 2 of '{}': there is no column 'text'"),
        ("a.csv", b"file_name,x\r\na\r\n", "line 2 of '{}': the number of cells differs"),
        ("a.csv", b'file_name,x\r\n"a', "cannot read captions from '{}': unexpected end"),
        ("a.csv", b"\xff\xfe\r\n\xff", "cannot read captions from '{}': "),
        ("a.json", b"{}", "cannot read captions from '{}': Expected `array`"),
        ("a.json", b'[{"image_id": 1, "caption": "a"}]', "a row has no 'file_name'"),
        ("a.json", b"[", "cannot read captions from '{}': "),
        ("a.parquet", b"no table", "cannot read captions from '{}': "),
    ],
)
def test_convert_damaged_file_leaves_no_output(name, content, reason, tmp_path, capsys):
    path = tmp_path / name
    path.write_bytes(content)
    output = tmp_path / "new.jsonl"
    assert run_command("convert", path, "-o", output) == 1
    assert reason.format(path) in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == [name]
    output.write_text("older\n")
    assert run_command("convert", path, "-o", output, "--overwrite") == 1
    assert output.read_text() == "older\n"
    assert Path(tmp_path / "new.jsonl.part").exists() is False
