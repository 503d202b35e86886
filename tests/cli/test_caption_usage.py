"""``captioning caption``: exit codes, wrong usage, messages, plan and summary."""

import io
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from caption_runs import parse_rows, run_command


@pytest.mark.parametrize(
    ("flags", "note"),
    [
        (["--seed", "1"], "--seed has no effect without --search sampling."),
        (["--seed", "1", "--search", "sampling"], ""),
        (["--time-limit", "5"], "--time-limit has no effect with --workers 0."),
        (["--overwrite"], "--overwrite has no effect on standard output."),
        (["--cache", "x"], "--cache has no effect without --consensus-data."),
        ([], ""),
    ],
)
def test_flag_without_effect_is_reported(flags, note, caption, photos):
    ran = caption(photos[0], *flags)
    assert ran.code == 0
    assert ran.err.rstrip() == note


def test_caption_folder_prints_one_json_line_per_image(caption, photos):
    ran = caption(photos[0].parent)
    assert ran.code == 0
    rows = parse_rows(ran.out)
    assert [row["file_name"] for row in rows] == [str(photo) for photo in photos]
    assert all(row["text"] and row["log_prob"] < 0 for row in rows)
    assert ran.err == ""


def test_caption_damaged_image_becomes_error_row(caption, photos):
    photos[1].write_bytes(photos[1].read_bytes()[:200])
    (photos[0].parent / "notes.md").write_text("not an image")
    ran = caption(photos[0].parent, "missing.jpg")
    assert ran.code == 1
    assert ["error" in row for row in parse_rows(ran.out)] == [False, True, False, True]
    assert "2 of 4 images could not be captioned:" in ran.err
    assert str(photos[1]) in ran.err
    assert "missing.jpg" in ran.err
    assert "Skipped 1 file, hidden or not an image: 1 .md." in ran.err


def test_caption_many_failures_lists_first_twenty(caption, tmp_path):
    for number in range(25):
        (tmp_path / f"{number}.jpg").write_bytes(b"")
    ran = caption(tmp_path, "-o", tmp_path / "out.csv")
    assert ran.code == 1
    assert "25 of 25 images could not be captioned" in ran.err
    assert "... and 5 more (see the output)" in ran.err
    assert ran.err.count(".jpg") == 20


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "no images given"),
        (["EMPTY"], r"no images found in .*empty'\. Check the path\.$"),
        (
            ["ABOVE"],
            r"no images found in \S*\.\nSkipped 1 subfolder. Add --recursive to include",
        ),
        (
            ["EMPTY", "ABOVE"],
            r"no images found in '.*empty', .*\nSkipped 1 subfolder. Add --recursive",
        ),
        (["ABOVE", "--recursive"], r"no images found in \S*\. Check the path\.$"),
        (["x.jpg", "--batch-size", "0"], "--batch-size is 0; it must be at least 1"),
        (["x.jpg", "--time-limit", "0"], "--time-limit is 0"),
        (["x.jpg", "--limit", "0"], "limit is 0; it must be at least 1"),
        (["x.jpg", "-o", "out.xyz"], "cannot derive the format of 'out.xyz'"),
        (["x.jpg", "--append", "--overwrite", "--format", "txt"], "cannot be used together"),
        (["x.jpg", "--append", "-o", "x.jsonl"], "--append needs one output per image"),
        (["x.jpg", "--partition", "0/3"], "--partition is '0/3'. Use I/N"),
        (["x.jpg", "--partition", "a"], "--partition is 'a'. Use I/N"),
        (["x.tar", "--format", "embed", "-o", "out"], "cannot embed captions in the images of x.t"),
        (["x.jpg", "http://h/x.jpg", "--format", "embed"], "in the images of http://h/x.jpg"),
        (["x.tar", "--format", "txt"], "cannot write txt files next to the images of x.tar"),
        (["x.jpg", "--dry-run", "--json"], "--dry-run and --json exclude each other"),
        (["--consensus-data", "flickr8k:a"], "everything after --consensus-data belongs"),
    ],
)
def test_caption_wrong_usage_exits_with_2(words, reason, caption, tmp_path):
    (tmp_path / "empty").mkdir()
    places = {"EMPTY": tmp_path / "empty", "ABOVE": tmp_path}
    ran = caption(*[str(places.get(word, word)) for word in words])
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("captioning: ")
    assert re.search(reason, ran.err)


def test_caption_empty_list_on_stdin_is_refused(caption, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO()))
    ran = caption("-")
    assert ran.code == 2
    assert "no images given on standard input. Write one path per line" in ran.err
    (tmp_path / "empty").mkdir()
    ran = caption(tmp_path / "empty", "-")
    assert f"no images found in '{tmp_path / 'empty'}', standard input. Check" in ran.err


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["caption", "x.jpg", "--foramt", "csv"], "--format"),
        (["caption", "x.jpg", "--format", "cvs"], "csv"),
        (["captoin"], "Did you mean 'caption'?"),
        ([], "usage: captioning COMMAND"),
    ],
)
def test_command_line_typo_shows_valid_choices(words, shown, capsys):
    assert run_command(*words) == 2
    captured = capsys.readouterr()
    assert shown in captured.err + captured.out


@pytest.mark.parametrize("name", ["caption", "samples", "info", "convert", "merge"])
def test_help_lists_flags_and_exits_with_0(name, capsys):
    assert run_command(name, "--help") == 0
    shown = capsys.readouterr().out
    assert f"usage: captioning {name}" in shown
    assert "{None}" not in shown


@pytest.mark.parametrize(
    "words", [["--help"], ["caption", "--help"], ["merge", "--help"], ["convert", "--help"]]
)
def test_help_does_not_import_torch(words):
    code = (
        "import sys; from captioning.cli import main as cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "False\n")
    assert "usage: captioning" in ran.stdout


def test_dry_run_prints_plan_and_writes_nothing(caption, photos, tmp_path, decoded):
    (photos[0].parent / "notes.md").touch()
    ran = caption(photos[0].parent, "-o", tmp_path / "rows.csv", "--dry-run")
    assert ran.code == 0
    assert f"Would write captions of 3 images as csv to {tmp_path / 'rows.csv'}." in ran.out
    assert "Skipped 1 file, hidden or not an image: 1 .md." in ran.out
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    assert decoded == []


def test_dry_run_prints_in_any_encoding(photos, tmp_path):
    words = [sys.executable, "-m", "captioning", "caption", photos[0], "--dry-run", "-o"]
    words.append(tmp_path / "\u732b.csv")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ran = subprocess.run(words, env=environment, capture_output=True, check=True)
    assert b"Would write captions of 1 image as csv to" in ran.stdout
    assert b"\\u732b.csv" in ran.stdout


def test_json_summary_counts_every_image(caption, photos, tmp_path):
    photos[1].write_bytes(b"")
    words = [photos[0].parent, "-o", tmp_path / "rows.csv", "--json"]
    first = json.loads(caption(*words, "--limit", "2").out)
    second = json.loads(caption(*words).out)
    fields = ("captioned", "failed", "from_earlier_runs", "skipped_files", "interrupted")
    assert [first[name] for name in fields] == [1, 1, 0, 0, False]
    assert [second[name] for name in fields] == [2, 1, 1, 0, False]
    ran = caption(*photos, "--json")
    assert json.loads(ran.err.splitlines()[-1])["captioned"] == 2
    assert len(parse_rows(ran.out)) == 3


@pytest.mark.parametrize(
    ("words", "location"),
    [
        (["-o", "{}/out.jsonl"], "in {}/out.jsonl"),
        (["--format", "txt"], "in files next to the images"),
        (["-o", "{}/out.csv", "--json"], ""),
        (["-o", "/dev/null", "--format", "csv"], ""),
        ([], ""),
    ],
)
def test_caption_on_terminal_names_output_location(
    words, location, caption, photos, tmp_path, monkeypatch
):
    words = [word.format(tmp_path) for word in words] + ["--backend", "torch"]
    line = (
        f"Captioned 3 images with torch (float32). The captions are {location.format(tmp_path)}.\n"
    )
    assert "Captioned" not in caption(photos[0].parent, *words).err  # standard error is a pipe
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    err = caption(photos[0].parent, *words, "--overwrite").err
    assert line in err if location else "Captioned" not in err
    if words[:1] == ["-o"] and location:
        again = caption(photos[0].parent, *words).err
        assert "Captioned 3 images (3 from earlier runs) with torch" in again
