"""``captioning caption`` as a person or a script meets it: streams, files and exit codes."""

import base64
import csv
import html.parser
import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time
import urllib.parse
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pandas
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from small_captioner import small_checkpoint, write_photos

from captioning.bulk.journal import Journal, journal_of, read_facts
from captioning.bulk.writers.embed import CaptionEmbedder
from captioning.bulk.writers.xmp import read_xmp_caption
from captioning.checkpoint.checkpoint import save_checkpoint
from captioning.cli import main as cli
from captioning.cli.stopping import Stopping
from captioning.datasets import read_captions
from captioning.images import worker
from captioning.inference.captioner import Captioner
from captioning.inference.generation import CaptionGenerator


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "small"
    save_checkpoint(small_checkpoint(), directory)
    return directory


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos", 3)


@pytest.fixture
def caption(model, capsys):
    """Run the command in this process; give its exit code and what it wrote where."""

    def run(*words):
        with pytest.raises(SystemExit) as exited:
            cli.main(["caption", *map(str, words), "--model", str(model), "--workers", "0"])
        return SimpleNamespace(code=exited.value.code, **capsys.readouterr()._asdict())

    return run


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-o", "{}/out.jsonl"], "3 photos captioned, in {}/out.jsonl."),
        (["--format", "txt"], "3 photos captioned, beside them."),
        (["--format", "embed", "-o", "{}/in"], "3 photos captioned, in {}/in."),
        (["-o", "{}/out.csv", "--json"], ""),
        (["-o", "/dev/null", "--format", "csv"], ""),
        ([], ""),
    ],
)
def test_who_looks_is_told_where_the_captions_are(
    words, told, caption, photos, tmp_path, monkeypatch
):
    words, told = [word.format(tmp_path) for word in words], told.format(tmp_path)
    assert "captioned" not in caption(photos[0].parent, *words).err  # a script is not
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    said = caption(photos[0].parent, *words, "--overwrite").err
    assert said.endswith(f"{told}\n") if told else "captioned," not in said
    if words[:1] == ["-o"] and told:
        again = caption(photos[0].parent, *words).err
        assert again.endswith(f"{told[:-1]} (3 looked at by earlier runs).\n")


def rows(text):
    return [json.loads(line) for line in text.splitlines()]


# --- streams and exit codes ----------------------------------------------------------------------


def test_a_folder_gives_one_line_of_json_for_each_photo_and_nothing_else(caption, photos):
    ran = caption(photos[0].parent)
    assert ran.code == 0
    assert [row["image"] for row in rows(ran.out)] == [str(photo) for photo in photos]
    assert all(row["caption"] and row["log_prob"] < 0 for row in rows(ran.out))
    assert ran.err == ""


def test_a_damaged_photo_is_named_in_the_output_and_on_stderr_and_the_rest_captioned(
    caption, photos
):
    photos[1].write_bytes(photos[1].read_bytes()[:200])
    (photos[0].parent / "notes.md").write_text("no photo")
    ran = caption(photos[0].parent)
    assert ran.code == 1
    assert ["error" in row for row in rows(ran.out)] == [False, True, False]
    assert "1 of 3 photos could not be captioned:" in ran.err
    assert str(photos[1]) in ran.err
    assert "no images by their endings" in ran.err


def test_many_failures_are_counted_and_not_all_named(caption, tmp_path):
    for number in range(25):
        (tmp_path / f"{number}.jpg").write_bytes(b"")
    ran = caption(tmp_path, "-o", tmp_path / "out.csv")
    assert ran.code == 1
    assert "25 of 25 photos could not be captioned" in ran.err
    assert "... and 5 more (see the output)" in ran.err
    assert ran.err.count("it is empty") == 20


def test_what_is_named_but_missing_is_a_row(caption, photos):
    ran = caption(photos[0], "missing.jpg", photos[1])
    assert ran.code == 1
    assert [row.get("error", "") for row in rows(ran.out)] == [
        "",
        "missing.jpg does not exist. Check the path.",
        "",
    ]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "No photo was named"),
        (["EMPTY"], r"There is no photo in .*empty\. Check the path\.$"),
        (["ABOVE"], r"There is no photo in \S*\. Add --recursive to look into its folders\.$"),
        (["EMPTY", "ABOVE"], r"There is no photo in .*empty, .* Add --recursive to look"),
        (["ABOVE", "--recursive"], r"There is no photo in \S*\. Check the path\.$"),
        (["x.jpg", "--beam", "3", "--sample"], "two ways to search"),
        (["x.jpg", "--top-k", "3"], "Add --sample"),
        (["x.jpg", "--batch-size", "0"], "batch_size is 0; it must be at least 1"),
        (["x.jpg", "--captions", "0"], "captions is 0; it must be at least 1"),
        (["x.jpg", "--time-limit", "0"], "time_limit is 0"),
        (["x.jpg", "-o", "out.xyz"], "The format cannot be told from -o out.xyz"),
        (
            ["x.jpg", "--resume", "--overwrite"],
            "--resume keeps what is there, --overwrite replaces",
        ),
        (
            ["x.jpg", "--append", "-o", "x.jsonl"],
            "--append is for files beside photos, not for js",
        ),
        (["x.jpg", "--sample", "--length-penalty", "1"], "--length-penalty belongs to beam"),
        (["x.jpg", "--shard", "0/3"], "--shard is '0/3'; it is like 1/8"),
        (["x.jpg", "--shard", "a"], "--shard is 'a'; it is like 1/8"),
        (["x.jpg", "--limit", "0"], "limit is 0; it must be at least 1"),
        (["x.jpg", "--beam", "2", "--captions", "5"], "width|captions"),
        (["x.tar", "--format", "embed", "-o", "out"], "x.tar holds no files that a caption could"),
        (["x.jpg", "http://h/x.jpg", "--format", "embed"], "http://h/x.jpg holds no files"),
        (["x.tar", "--format", "txt"], "No file can be put beside the photos of x.tar"),
    ],
)
def test_wrong_usage_is_told_and_exits_with_2(words, reason, caption, tmp_path):
    (tmp_path / "empty").mkdir()
    places = {"EMPTY": tmp_path / "empty", "ABOVE": tmp_path}
    ran = caption(*[str(places.get(word, word)) for word in words])
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("captioning: ")
    assert re.search(reason, ran.err)


def test_a_list_without_names_is_told_and_its_folders_are_not_looked_into(
    caption, tmp_path, monkeypatch
):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO()))
    ran = caption("-")
    assert ran.code == 2
    assert "Standard input named no photo. Give it one path in a line" in ran.err
    (tmp_path / "empty").mkdir()
    ran = caption(tmp_path / "empty", "-")
    assert f"There is no photo in {tmp_path / 'empty'}, standard input. Check" in ran.err


@pytest.mark.parametrize("pattern", ["none/*.png", "shard-*.tar", "none-[0-9].jpg"])
def test_a_pattern_that_nothing_matches_is_a_row_that_says_so(pattern, caption, photos):
    ran = caption(photos[0], pattern)
    assert ran.code == 1
    assert [row.get("error", "") for row in rows(ran.out)] == [
        "",
        f"no file matches '{pattern}'. Check the pattern.",
    ]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["caption", "x.jpg", "--foramt", "csv"], "--format"),
        (["caption", "x.jpg", "--format", "cvs"], "csv"),
        (["captoin"], "Did you mean 'caption'?"),
        ([], "usage: captioning COMMAND"),
    ],
)
def test_a_slip_of_the_pen_is_shown_what_there_is(words, shown, capsys):
    with pytest.raises(SystemExit) as exited:
        cli.main(words)
    assert exited.value.code == 2
    captured = capsys.readouterr()
    assert shown in captured.err + captured.out


@pytest.mark.parametrize("name", ["caption", "samples", "info"])
def test_help_lists_the_flags_and_exits_with_0(name, capsys):
    with pytest.raises(SystemExit) as exited:
        cli.main([name, "--help"])
    assert exited.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: captioning {name}" in shown
    assert "{None}" not in shown


@pytest.mark.parametrize("words", [["--help"], ["caption", "--help"], ["merge", "--help"]])
def test_help_does_not_wait_for_torch(words):
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


# --- names ---------------------------------------------------------------------------------------

ODD_NAMES = (
    b"new\nline.jpg",
    b"quote\"'.jpg",
    b"no utf-8 \xe9\xff.jpg",
    b"-o.jpg",
    b"<b>&amp;.jpg",
    b"=1+1.jpg",
    "日本語 🐕.jpg".encode(),
    b"long" * 62 + b".jpg",
    b"[a]*.jpg",
    "a separator of lines \u2028.jpg".encode(),
)


@pytest.fixture
def odd_photos(tmp_path):
    (photo,) = write_photos(tmp_path, 1)
    folder = tmp_path / "odd"
    folder.mkdir()
    paths = [os.fsencode(folder / os.fsdecode(name)) for name in ODD_NAMES]
    for path in paths:
        os.link(photo, path)
    return paths


def test_json_lines_give_every_name_back_to_the_byte(caption, odd_photos, tmp_path):
    output = tmp_path / "rows.jsonl"
    assert caption(tmp_path / "odd", "-o", output).code == 0
    found = {os.fsencode(row["image"]) for row in rows(output.read_text(encoding="utf-8"))}
    assert found == set(odd_photos)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_standard_output_has_utf_8_wherever_a_program_reads_it(encoding, odd_photos, model):
    folder = os.path.dirname(odd_photos[0])  # noqa: PTH120
    words = [sys.executable, "-m", "captioning", "caption", folder, "--model", model]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    ran = subprocess.run(words, env=environment, capture_output=True, check=True)
    assert {os.fsencode(row["image"]) for row in rows(ran.stdout.decode())} == set(odd_photos)


def test_a_table_keeps_each_name_in_its_cell(caption, odd_photos, tmp_path):
    output = tmp_path / "rows.csv"
    assert caption(tmp_path / "odd", "-o", output).code == 0
    with output.open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(odd_photos)
    names = {Path(row["image"]).name for row in table}
    exact = {name for name in map(os.fsdecode, ODD_NAMES) if "utf-8" not in name}
    assert exact < names
    assert "no utf-8 \\udce9\\udcff.jpg" in names


def test_a_name_is_no_formula_for_a_spreadsheet(caption, photos, monkeypatch):
    monkeypatch.chdir(photos[0].parent)
    photos[0].rename("=1+1.jpg")
    ran = caption("=1+1.jpg", "./", "--format", "csv")
    first = next(csv.DictReader(io.StringIO(ran.out)))
    assert first["image"] == first["file_name"] == "'=1+1.jpg"


def test_every_name_is_one_cell_and_no_two_names_become_one(caption, photos, monkeypatch):
    monkeypatch.chdir(photos[0].parent)
    names = ["=a.jpg", "'=a.jpg", "two\r=lines.jpg"]
    for photo, name in zip(photos, names, strict=True):
        photo.rename(name)
    ran = caption(*names, "--format", "csv")
    found = list(csv.DictReader(io.StringIO(ran.out, newline=""), strict=True))
    assert [row["image"] for row in found] == ["'=a.jpg", "''=a.jpg", "two\r=lines.jpg"]
    assert not any(None in row or None in row.values() for row in found)


def test_a_photo_called_like_a_text_file_is_not_written_over(caption, photos):
    disguised = photos[0].rename(photos[0].with_suffix(".txt"))
    before = disguised.read_bytes()
    for more in ([], ["--overwrite"], ["--append"]):
        ran = caption(disguised, photos[1], "--format", "txt", *more)
        assert disguised.read_bytes() == before
        assert photos[1].with_suffix(".txt").exists()
        assert ran.code == (1 if more else 0)
    assert "is no text file, so it is not written over" in ran.err


class _Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text, self.images = [], "", []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.images += [value for name, value in attrs if tag == "img" and name == "src"]

    def handle_data(self, data):
        self.text += data


def test_a_page_shows_names_as_text_and_holds_its_images(caption, odd_photos, tmp_path):
    output = tmp_path / "page.html"
    (tmp_path / "odd" / "<script>alert(1)</script>.jpg".replace("/", "_")).write_bytes(b"")
    assert caption(tmp_path / "odd", "-o", output).code == 1
    page = _Page()
    page.feed(output.read_text(encoding="utf-8"))
    assert "b" not in page.tags
    assert page.tags.count("script") == 0
    assert page.tags.count("figure") == len(odd_photos) + 1
    assert "<b>&amp;.jpg" in page.text
    assert "<script>alert(1)" in page.text
    assert len(set(page.images)) == len(odd_photos)
    for address in page.images:
        with Image.open(tmp_path / urllib.parse.unquote(address)) as small:
            assert small.format == "JPEG"


def test_a_page_on_standard_output_holds_its_images(caption, photos):
    page = _Page()
    page.feed(caption(*photos, "--format", "html").out)
    assert len(page.images) == 3
    for address in page.images:
        content = base64.b64decode(address.removeprefix("data:image/jpeg;base64,"), validate=True)
        with Image.open(io.BytesIO(content)) as small:
            assert small.format == "JPEG"


def test_text_files_stand_beside_photos_of_any_name(caption, odd_photos, tmp_path):
    assert caption(tmp_path / "odd", "--format", "txt").code == 0
    for path in odd_photos:
        assert Path(os.fsdecode(path)).with_suffix(".txt").read_text(encoding="utf-8").strip()
    again = caption(tmp_path / "odd", "--format", "txt")  # they are not written over
    assert again.code == 0
    assert (
        f"Left out, as there is a caption under their name already: {len(odd_photos)} photos."
        in again.err
    )
    assert caption(tmp_path / "odd", "--format", "txt", "--overwrite").code == 0


def test_the_terminal_is_sent_no_control_characters(caption, tmp_path):
    name = "red\x1b[31m\n.jpg"
    (tmp_path / name).write_bytes(b"")
    ran = caption(tmp_path, "--format", "text")
    assert ran.code == 1
    assert "\x1b" not in ran.out + ran.err
    assert "red\\x1b[31m\\n.jpg" in ran.err


@pytest.mark.parametrize("end", [b"\n", b"\0"])
def test_a_list_on_standard_input_holds_names_as_they_are(
    end, caption, odd_photos, monkeypatch, tmp_path
):
    listed = [path for path in odd_photos if end == b"\0" or b"\n" not in path]
    stdin = SimpleNamespace(buffer=io.BytesIO(end.join([*listed, b""])))
    monkeypatch.setattr(sys, "stdin", stdin)
    ran = caption("-")
    assert ran.code == 0
    assert [os.fsencode(row["image"]) for row in rows(ran.out)] == listed


# --- outputs -------------------------------------------------------------------------------------


def test_coco_results_are_read_by_pycocotools(caption, tmp_path, capsys):
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


def test_an_output_in_a_new_folder_is_made(caption, photos, tmp_path):
    assert caption(photos[0], "-o", tmp_path / "new" / "er" / "rows.jsonl").code == 0
    assert len(rows((tmp_path / "new" / "er" / "rows.jsonl").read_text())) == 1


@pytest.mark.parametrize("form", ["jsonl", "csv", "html"])
def test_an_output_that_is_a_folder_is_refused(form, caption, photos, tmp_path):
    (tmp_path / "folder").mkdir()
    ran = caption(photos[0], "-o", tmp_path / "folder", "--format", form)
    assert ran.code == 1
    assert "folder cannot be written: it is a folder" in ran.err


def test_a_photo_is_never_written_over(caption, photos, tmp_path):
    before = photos[1].read_bytes()
    link = tmp_path / "rows.jsonl"
    link.symlink_to(photos[1])
    for output in (photos[1], link):
        ran = caption(photos[0].parent, "-o", output, "--format", "jsonl")
        assert ran.code == 2
        assert "is one of the photos" in ran.err
    assert photos[1].read_bytes() == before


@pytest.fixture
def asked(monkeypatch):
    """The images that were read, in order."""
    sources = []
    real = worker.read_image
    monkeypatch.setattr(
        worker,
        "read_image",
        lambda source, **how: sources.append(source) or real(source, **how),
    )
    return sources


FILES = ["rows.jsonl", "rows.csv", "rows.json", "rows.html", "rows.parquet"]


def content_of(folder):
    """Return all files below a folder and what is in them, without journals."""
    found = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if ".journal" not in name.name}


@pytest.mark.parametrize("name", FILES)
def test_a_run_that_was_stopped_is_gone_on_with_and_ends_like_another(
    name, caption, photos, tmp_path, monkeypatch, asked
):
    photos[0].write_bytes(b"")
    whole, parts = tmp_path / "whole" / name, tmp_path / "parts" / name
    assert caption(photos[0].parent, "-o", whole).code == 1
    asked.clear()
    monkeypatch.chdir(tmp_path)
    assert caption(photos[0].parent, "-o", parts, "--limit", "2", "--batch-size", "1").code == 1
    assert caption(photos[0].parent, "-o", parts, "--resume").code == 1  # one is still damaged
    assert asked[1:] == [str(photos[1]), str(photos[0]), str(photos[2])]  # the damaged one again
    assert content_of(parts.parent) == content_of(whole.parent)
    assert caption(photos[0].parent, "-o", parts).code == 1
    assert len(asked) == 5
    assert content_of(parts.parent) == content_of(whole.parent)


def test_a_photo_that_has_changed_or_come_since_is_captioned_again(
    caption, photos, tmp_path, asked
):
    output = tmp_path / "rows.jsonl"
    photos[1].write_bytes(b"")
    assert caption(photos[0].parent, "-o", output).code == 1
    photos[1].write_bytes(photos[0].read_bytes())
    write_photos(photos[0].parent, 1, start=0)
    asked.clear()
    assert caption(photos[0].parent, "-o", output).code == 0
    assert [Path(name).name for name in asked] == ["photo0.jpg", "photo2.jpg"]
    found = rows(output.read_text())
    assert [Path(row["image"]).name for row in found] == [f"photo{n}.jpg" for n in range(4)]


def test_photos_that_are_no_longer_named_are_told_of_and_come_back_when_named(
    caption, photos, tmp_path, asked
):
    output = tmp_path / "rows.jsonl"
    assert caption(*photos[:2], "-o", output).code == 0
    ran = caption(photos[2], "-o", output)
    assert "Captioned by earlier runs into this file and not named this time: 2 photos." in ran.err
    assert [row["image"] for row in rows(output.read_text())] == [str(photos[2])]
    assert caption(*photos, "-o", output).err == ""
    assert [row["image"] for row in rows(output.read_text())] == [str(photo) for photo in photos]
    assert len(asked) == 3


def test_an_output_that_somebody_changed_is_not_replaced_unasked(caption, photos, tmp_path):
    output = tmp_path / "rows.jsonl"
    assert caption(*photos, "-o", output).code == 0
    output.write_text(output.read_text() + "my own row\n")
    ran = caption(*photos, "-o", output)
    assert ran.code == 2
    assert "rows.jsonl was changed by somebody since it was written" in ran.err
    assert "my own row" in output.read_text()
    assert caption(*photos, "-o", output, "--overwrite").code == 0


def test_an_interrupted_run_does_not_shorten_an_older_output(
    caption, photos, tmp_path, monkeypatch
):
    output = tmp_path / "rows.jsonl"
    assert caption(photos[0].parent, "-o", output).code == 0
    before = output.read_bytes()
    photos[0].write_bytes(photos[1].read_bytes())
    real = worker.read_image

    def interrupted(source, **how):
        os.kill(os.getpid(), signal.SIGINT)
        return real(source, **how)

    with monkeypatch.context() as patch:
        patch.setattr(worker, "read_image", interrupted)
        assert caption(photos[0].parent, "-o", output, "--batch-size", "1").code == 130
    assert output.read_bytes() == before
    assert caption(photos[0].parent, "-o", output).code == 0
    assert len(rows(output.read_text())) == 3


def test_a_small_image_that_is_gone_is_made_again(caption, photos, tmp_path):
    output = tmp_path / "page.html"
    assert caption(*photos, "-o", output).code == 0
    small = sorted((tmp_path / "page_files").rglob("*.jpg"))
    before = small[0].read_bytes()
    small[0].unlink()
    assert caption(*photos, "-o", output).code == 0
    assert small[0].read_bytes() == before


def test_images_of_one_name_in_a_shard_keep_their_own_captions(caption, photos, tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as shard:
        for photo in (*photos, *photos):
            shard.add(photo, "x.jpg")
    expected = [row["text"] for row in rows(caption(*photos).out)] * 2
    for _ in range(2):
        ran = caption(tmp_path / "s.tar", "-o", tmp_path / "rows.jsonl", "--batch-size", "2")
        assert ran.code == 0
        found = rows((tmp_path / "rows.jsonl").read_text())
        assert [row["text"] for row in found] == expected


def test_what_lies_among_the_photos_is_never_run(model, photos, tmp_path):
    for name in ("json", "captioning", "PIL", "numpy", "struct"):
        (photos[0].parent / f"{name}.py").write_text("open('RUN', 'w').close()")
    command = Path(sys.executable).with_name("captioning")
    words = [command, "caption", ".", "--model", model, "-o", tmp_path / "rows.jsonl"]
    ran = subprocess.run(words, cwd=photos[0].parent, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert not (photos[0].parent / "RUN").exists()


def test_another_search_or_model_does_not_go_on_with_a_run(caption, photos, tmp_path):
    output = tmp_path / "rows.jsonl"
    assert caption(photos[0], "-o", output).code == 0
    before = output.read_bytes()
    ran = caption(photos[0], "-o", output, "--beam", "1")
    assert ran.code == 2
    assert re.search(r"other settings: search\.width was \d and is now 1\. Give the same", ran.err)
    assert output.read_bytes() == before
    assert caption(photos[0], "-o", output, "--beam", "1", "--overwrite").code == 0


def test_a_file_without_a_journal_is_not_replaced_unasked(caption, photos, tmp_path):
    output = tmp_path / "rows.jsonl"
    output.write_text("mine\n")
    ran = caption(photos[0], "-o", output)
    assert ran.code == 2
    assert "rows.jsonl exists, and there is no journal" in ran.err
    assert output.read_text() == "mine\n"
    assert caption(photos[0], "-o", output, "--overwrite").code == 0
    assert len(rows(output.read_text())) == 1


def test_shares_together_are_the_whole(caption, photos, tmp_path, capsys):
    write_photos(photos[0].parent, 8)
    assert caption(photos[0].parent, "-o", tmp_path / "whole.jsonl").code == 0
    shares = [tmp_path / f"{number}.jsonl" for number in (1, 2, 3)]
    for number, share in enumerate(shares, 1):
        assert caption(photos[0].parent, "-o", share, "--shard", f"{number}/3").code == 0
    for ending in ("jsonl", "csv"):
        merge = [
            "merge",
            *map(str, shares[::-1]),
            "-o",
            str(tmp_path / f"all.{ending}"),
        ]
        with pytest.raises(SystemExit) as exited:
            cli.main(merge)
        assert exited.value.code == 0
    assert "8 rows of 3 shares" in capsys.readouterr().err
    assert (tmp_path / "all.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_shares_that_are_not_all_there_are_not_merged(caption, photos, tmp_path, capsys):
    def merged(*names):
        paths = [name if name.startswith("-") else str(tmp_path / name) for name in names]
        with pytest.raises(SystemExit) as exited:
            cli.main(["merge", *paths])
        assert exited.value.code
        return capsys.readouterr().err

    for number in (1, 2):
        caption(*photos, "-o", tmp_path / f"{number}.jsonl", "--shard", f"{number}/2")
    caption(*photos, "-o", tmp_path / "other.jsonl", "--shard", "2/2", "--beam", "1")
    caption(*photos[:2], "-o", tmp_path / "fewer.jsonl", "--shard", "2/2")
    caption(*photos, "-o", tmp_path / "whole.jsonl")
    assert "1.jsonl is share 1 of 2, and the command names 1 share. Name" in merged("1.jsonl")
    assert "3.jsonl does not exist. Check the path." in merged("1.jsonl", "3.jsonl")
    assert "are both share 1 of 2" in merged("1.jsonl", "1.jsonl")
    assert "were made with different models, settings or inputs" in merged("1.jsonl", "other.jsonl")
    assert "settings or inputs" in merged("1.jsonl", "fewer.jsonl")
    assert "exists. Give --overwrite" in merged("1.jsonl", "2.jsonl", "-o", "whole.jsonl")
    photo = os.path.relpath(photos[0], tmp_path)
    assert "is one of the photos" in merged("1.jsonl", "2.jsonl", "-o", photo, "--overwrite")
    assert "whole.jsonl is no share of a run" in merged("1.jsonl", "whole.jsonl")
    assert "No share was named" in merged()
    assert "ends in .jsonl, .csv" in merged("1.jsonl", "2.jsonl", "-o", "page.html")
    assert not (tmp_path / "page.html").exists()
    content = (tmp_path / "1.jsonl").read_text()
    (tmp_path / "1.jsonl").write_text(content.splitlines()[0] + "\n")
    (tmp_path / "2.jsonl").write_text(content)
    assert "is not complete. Run its command again" in merged("1.jsonl", "2.jsonl")
    journal = Journal(
        tmp_path / ".1.jsonl.journal",
        read_facts(tmp_path / ".1.jsonl.journal")["settings"],
    )
    journal.note(finished=None)
    journal.close()
    assert "1.jsonl is not complete" in merged("1.jsonl", "2.jsonl")


def test_what_would_be_done_is_told_without_doing_it(caption, photos, tmp_path, asked):
    (photos[0].parent / "notes.md").touch()
    ran = caption(photos[0].parent, "-o", tmp_path / "rows.csv", "--dry-run")
    assert ran.code == 0
    assert "3 photos would be captioned, as csv, into" in ran.out
    assert "1 other file would be passed over" in ran.out
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    assert asked == []


def test_what_would_be_done_is_told_in_any_encoding(photos, tmp_path):
    words = [sys.executable, "-m", "captioning", "caption", photos[0], "--dry-run", "-o"]
    words.append(tmp_path / "\u732b.csv")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ran = subprocess.run(words, env=environment, capture_output=True, check=True)
    assert b"1 photo would be captioned, as csv, into" in ran.stdout
    assert b"\\u732b.csv" in ran.stdout


def test_a_folder_may_be_named_as_an_archive(caption, photos, tmp_path):
    folder = photos[0].parent.rename(tmp_path / "holiday.tar")
    assert caption(folder, "--format", "txt").code == 0
    assert len(list(folder.glob("*.txt"))) == len(photos)


def test_the_summary_counts_every_photo(caption, photos, tmp_path):
    photos[1].write_bytes(b"")
    words = [photos[0].parent, "-o", tmp_path / "rows.csv", "--json"]
    first = json.loads(caption(*words, "--limit", "2").out)
    second = json.loads(caption(*words).out)
    wanted = ("captioned", "failed", "of_earlier_runs", "passed_over", "interrupted")
    assert [first[name] for name in wanted] == [1, 1, 0, 0, False]
    assert [second[name] for name in wanted] == [2, 1, 1, 0, False]
    ran = caption(*photos, "--json")
    assert json.loads(ran.err.splitlines()[-1])["captioned"] == 2
    assert len(rows(ran.out)) == 3


def test_captions_stand_between_prefix_and_suffix(caption, photos, tmp_path):
    plain = [row["text"] for row in rows(caption(*photos).out)]
    framed = caption(*photos, "--prefix", "photo of ", "--suffix", ", by me")
    assert [row["text"] for row in rows(framed.out)] == [f"photo of {t}, by me" for t in plain]


def test_rows_are_read_by_hugging_face_and_by_training(caption, photos, tmp_path):
    output = photos[0].parent / "metadata.jsonl"
    assert caption(photos[0].parent, "-o", output, "--n", "2").code == 0
    for row, photo in zip(rows(output.read_text()), photos, strict=True):
        assert (row["file_name"], row["image"]) == (photo.name, str(photo))
        assert row["text"] == row["caption"] == row["captions"][0]
        assert row["log_prob"] == row["log_probs"][0] >= row["log_probs"][1]
    (split,) = [read_captions(f"jsonl:{output}", split="train")]
    assert [image.captions[0] for image in split.images] == [
        row["caption"] for row in rows(output.read_text())
    ]


def test_a_table_in_parquet_holds_the_same_as_the_lines(caption, photos, tmp_path):
    photos[1].write_bytes(b"")
    for name in ("rows.parquet", "rows.jsonl"):
        assert caption(*photos, "-o", tmp_path / name, "--n", "2").code == 1
    table = pandas.read_parquet(tmp_path / "rows.parquet").to_dict("records")
    for row, line in zip(table, rows((tmp_path / "rows.jsonl").read_text()), strict=True):
        for name, value in line.items():
            assert list(row[name]) == value if isinstance(value, list) else row[name] == value


@pytest.mark.parametrize("form", ["embed", "html"])
def test_what_a_run_wrote_is_none_of_its_inputs(form, caption, photos, asked):
    folder = photos[0].parent
    output = folder / ("copies" if form == "embed" else "page.html")
    for words in ([], [], ["--overwrite"]):
        assert caption(folder, "--recursive", "--format", form, "-o", output, *words).code == 0
    assert {Path(source).parent for source in asked} == {folder}


# --- files beside photos -------------------------------------------------------------------------


def test_text_files_are_kept_replaced_or_added_to(caption, photos):
    text = photos[0].with_suffix(".txt")
    text.write_text("mine\n")
    assert caption(*photos, "--format", "txt").code == 0
    assert text.read_text() == "mine\n"
    for _ in range(2):  # the second time it is there
        assert caption(*photos, "--format", "txt", "--append").code == 0
    first, second = text.read_text().splitlines()
    assert first == "mine"
    assert caption(*photos, "--format", "txt", "--overwrite").code == 0
    assert text.read_text().splitlines() == [second]


def test_a_folder_that_may_not_be_written_fails_its_photos_alone(caption, photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "photo2.txt").mkdir()  # nothing can be written in its place
    ran = caption(*photos, "--format", "txt", "-o", tmp_path / "out", "--overwrite")
    assert ran.code == 1
    assert "1 of 3 photos could not be captioned" in ran.err
    assert (tmp_path / "out" / "photo3.txt").read_text()


def read_caption(path):
    if path.suffix == ".xmp":
        return read_xmp_caption(path)
    embedder = CaptionEmbedder()
    try:
        return embedder.read_caption(path)
    finally:
        embedder.close()


@pytest.mark.parametrize("form", ["xmp", "embed"])
def test_captions_are_kept_in_metadata(form, caption, photos, tmp_path):
    plain = [row["text"] for row in rows(caption(*photos).out)]
    originals = [photo.read_bytes() for photo in photos]
    out = tmp_path / "out"
    assert caption(*photos, "--format", form, "-o", out).code == 0
    written = sorted(out.iterdir())
    assert [path.name for path in written] == [
        photo.name if form == "embed" else f"{photo.stem}.xmp" for photo in photos
    ]
    assert [read_caption(path) for path in written] == plain
    assert [photo.read_bytes() for photo in photos] == originals
    again = caption(*photos, "--format", form, "-o", out)
    assert "Left out, as there is a caption under their name already: 3 photos." in again.err
    assert caption(*photos, "--format", form).code == 0  # beside the photos, or in them
    if form == "embed":
        assert [read_caption(photo) for photo in photos] == plain
        with (
            Image.open(photos[0]) as after,
            Image.open(io.BytesIO(originals[0])) as before,
        ):
            assert after.tobytes() == before.tobytes()
    else:
        assert [read_caption(photo.with_suffix(".xmp")) for photo in photos] == plain


# --- ends before the end -------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.html"])
def test_an_interrupted_run_ends_its_batch_keeps_what_it_has_and_says_how_to_go_on(
    name, number, caption, photos, tmp_path, monkeypatch
):
    real = worker.read_image

    def interrupted(source, **how):
        if str(source).endswith("photo2.jpg"):
            os.kill(os.getpid(), number)
        return real(source, **how)

    output = tmp_path / "out" / name
    with monkeypatch.context() as patch:
        patch.setattr(worker, "read_image", interrupted)
        ran = caption(photos[0].parent, "-o", output, "--batch-size", "2")
    assert ran.code == 128 + number
    assert ran.err.splitlines()[-1] == (
        "captioning: interrupted after 2 photos. The same command goes on from there."
    )
    text = output.read_text()
    assert "photo2" in text
    assert "photo3" not in text
    assert not name.endswith("html") or text.rstrip().endswith("</html>")
    assert caption(photos[0].parent, "-o", output, "--batch-size", "2").code == 0
    assert "photo3" in output.read_text()


@pytest.mark.parametrize("name", ["rows.csv", "rows.html", "rows.json"])
def test_an_error_of_our_own_leaves_the_older_document(
    name, caption, model, photos, tmp_path, monkeypatch
):
    output = tmp_path / name
    assert caption(photos[0].parent, "-o", output).code == 0
    before = output.read_bytes()

    def broken(*_, **__):
        raise RuntimeError("a defect")
        yield

    monkeypatch.setattr(Captioner, "caption_batches", broken)
    words = ["caption", str(photos[0].parent), "-o", str(output), "--model", str(model)]
    with pytest.raises(RuntimeError, match="a defect"):
        cli.main(words)
    assert output.read_bytes() == before
    assert (tmp_path / f"{output.name}.part").exists()


def test_a_batch_that_does_not_fit_is_halved(caption, photos, monkeypatch):
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
    assert [row["text"] for row in rows(caption(photos[0].parent, "--batch-size", "8").out)] == [
        row["text"] for row in rows(expected)
    ]
    assert sizes == [8, 4, 2, 2, 2, 2, 1]


@pytest.mark.parametrize(("form", "kept"), [("jsonl", "rows.jsonl"), ("csv", "rows.csv.part")])
def test_a_full_disk_ends_the_run_and_keeps_what_was_written(
    form, kept, caption, photos, tmp_path, monkeypatch
):
    from captioning.bulk.writers import formats as writers

    def fill_up(writer):
        real = writer._write

        def write(self, result):
            if result.source.endswith("photo3.jpg"):
                raise OSError(28, "No space left on device")
            real(self, result)

        monkeypatch.setattr(writer, "_write", write)

    fill_up(writers._JsonLines)
    fill_up(writers._Csv)
    ran = caption(photos[0].parent, "-o", tmp_path / f"rows.{form}")
    assert ran.code == 1
    assert "No space left on device" in ran.err
    assert "photo2" in (tmp_path / kept).read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_reader_that_leaves_and_a_full_device_end_the_run_without_a_traceback(model, tmp_path):
    write_photos(tmp_path, 40)
    words = [
        sys.executable,
        "-m",
        "captioning",
        "caption",
        str(tmp_path),
        "--model",
        str(model),
    ]
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.startswith("captioning: cannot write to standard output")
    assert ran.stderr.count("\n") == 1
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def at_a_terminal(words, *, piped):
    """Run a command with standard error, and unless piped standard output, at a terminal.

    Returns:
        Its exit code, what the terminal was sent, and what went through the pipe.
    """
    import pty

    ours, its = pty.openpty()
    stdout = subprocess.PIPE if piped else its
    with subprocess.Popen(words, stdout=stdout, stderr=its) as process:
        os.close(its)
        shown = b""
        with suppress(OSError):  # how the end is told of on Linux
            while part := os.read(ours, 4096):
                shown += part
        os.close(ours)
        through = process.stdout.read() if piped else b""
    return process.returncode, shown.decode(), through.decode()


def stopped_after(caption, batches, *words):
    """Run the command, and stop it as Ctrl-C does once so many batches are written."""
    write, seen = Captioner.caption_batches, []

    def batches_until(self, images, loader, **settings):
        for batch in write(self, images, loader, **settings):
            seen.append(batch)
            if len(seen) == batches:
                signal.raise_signal(signal.SIGINT)
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Captioner, "caption_batches", batches_until)
        return caption(*words)


def test_a_later_run_that_was_stopped_is_gone_on_with(caption, photos, tmp_path):
    words = (photos[0].parent, "-o", tmp_path / "out.jsonl", "--batch-size", 1)
    assert caption(*words, "--limit", 1).code == 0
    stopped = stopped_after(caption, 2, *words)
    assert stopped.code == 130
    assert "The same command goes on from there" in stopped.err
    assert read_facts(tmp_path / ".out.jsonl.journal")["finished"] is None
    assert caption(*words).code == 0
    whole = tmp_path / "whole.jsonl"
    caption(photos[0].parent, "-o", whole)
    assert (tmp_path / "out.jsonl").read_text() == whole.read_text()


def test_a_run_that_overwrites_says_how_to_go_on(caption, photos, tmp_path):
    words = (photos[0].parent, "-o", tmp_path / "out.jsonl", "--batch-size", 1)
    stopped = stopped_after(caption, 2, *words, "--overwrite")
    assert "The same command, without --overwrite, goes on from there" in stopped.err
    again = json.loads(caption(*words, "--json").out)
    assert again["of_earlier_runs"] == 2


def test_a_share_without_photos_is_a_whole_share(caption, photos, tmp_path, capsys):
    parts = [tmp_path / f"part-{i}.jsonl" for i in (1, 2, 3)]
    for number, part in enumerate(parts, 1):
        ran = caption(photos[0], "--shard", f"{number}/3", "-o", part)
        assert ran.code == 0, ran.err
    with pytest.raises(SystemExit) as ended:
        cli.main(["merge", *map(str, parts), "-o", str(tmp_path / "all.jsonl")])
    assert ended.value.code == 0
    assert len((tmp_path / "all.jsonl").read_text().splitlines()) == 1
    (tmp_path / "empty").mkdir()
    nothing = caption(tmp_path / "empty", "--shard", "2/3", "-o", tmp_path / "x.jsonl")
    assert nothing.code == 2
    assert "There is no photo in" in nothing.err


def test_shares_that_cannot_be_merged_leave_nothing(caption, photos, tmp_path, capsys):
    parts = [tmp_path / f"part-{i}.jsonl" for i in (1, 2)]
    for number, part in enumerate(parts, 1):
        caption(photos[0].parent, "--shard", f"{number}/2", "-o", part)
    with parts[1].open("a") as file:
        file.write("broken\n")
    with pytest.raises(SystemExit) as ended:
        cli.main(["merge", *map(str, parts), "-o", str(tmp_path / "all.jsonl")])
    assert ended.value.code == 1
    assert not (tmp_path / "all.jsonl").exists()
    for there in (False, True):
        if there:
            (tmp_path / "all.csv").write_text("an older merge\n")
        with pytest.raises(SystemExit):
            cli.main(["merge", *map(str, parts), "-o", str(tmp_path / "all.csv"), "--overwrite"])
        assert [path.name for path in tmp_path.glob("all*")] == ["all.csv"] * there
    assert (tmp_path / "all.csv").read_text() == "an older merge\n"


@pytest.mark.parametrize("form", ["csv", "coco", "html", "text"])
def test_shares_that_are_no_json_lines_are_refused_before_anything_is_written(
    form, caption, photos, tmp_path, capsys
):
    parts = [tmp_path / f"part-{i}.out" for i in (1, 2)]
    for number, part in enumerate(parts, 1):
        caption(photos[0].parent, "--shard", f"{number}/2", "-o", part, "--format", form)
    with pytest.raises(SystemExit) as ended:
        cli.main(["merge", *map(str, parts), "-o", str(tmp_path / "all.csv")])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "part-1.out holds no JSON lines, and shares are merged from JSON lines. Run" in told
    assert not [*tmp_path.glob("all*")]


def test_names_lead_from_the_outputs_real_folder(caption, photos, tmp_path):
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    output = tmp_path / "link" / "out.jsonl"
    caption(photos[0].parent, "-o", output)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert rows
    assert all((tmp_path / "link" / row["file_name"]).exists() for row in rows)


def test_a_pattern_of_folders_leads_into_them(caption, photos):
    folder = photos[0].parent
    pattern = folder.with_name(f"[{folder.name[0]}]{folder.name[1:]}")
    assert caption(pattern).out == caption(folder).out != ""


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGHUP")
def test_a_run_under_nohup_outlives_its_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stopping() as stopping:
            signal.raise_signal(signal.SIGHUP)
        assert not stopping.asked
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of another kind")
def test_closed_standard_output_is_no_traceback(model, photos, tmp_path):
    name = f"{sys.executable} -m captioning"
    for words, code, said in (
        ("--version", 0, ""),
        (f"caption {photos[0]} --model {model}", 1, "Standard output is closed"),
    ):
        shell = ["sh", "-c", f"{name} {words} >&-"]
        ran = subprocess.run(shell, capture_output=True, text=True, check=False)
        assert ran.returncode == code, ran.stderr
        assert said in ran.stderr
        assert "Traceback" not in ran.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminal")
@pytest.mark.parametrize("form", ["text", "csv", "jsonl"])
def test_rows_reach_a_file_beside_the_bar_and_a_terminal_without_one(form, model, tmp_path):
    write_photos(tmp_path, 3)
    words = [*(sys.executable, "-m", "captioning", "caption"), str(tmp_path), "--model", str(model)]
    words += ["--format", form]
    code, bar, rows = at_a_terminal(words, piped=True)
    assert code == 0
    assert "3/3" in bar
    assert "photo1" not in bar
    assert [name in rows for name in ("photo1.jpg", "photo2.jpg", "photo3.jpg")] == [True] * 3
    code, shown, _ = at_a_terminal(words, piped=False)
    assert code == 0
    assert [line.rstrip() for line in shown.splitlines() if line.strip()] == rows.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="signals to a group of processes")
def test_ctrl_c_at_the_terminal_leaves_whole_rows_and_no_traceback(model, tmp_path):
    (photo,) = write_photos(tmp_path, 1)
    names = []
    for number in range(4000):
        names.append(tmp_path / f"link{number}.jpg")
        os.link(photo, names[-1])
    output = tmp_path / "rows.jsonl"
    words = [
        "-m",
        "captioning",
        "caption",
        str(tmp_path),
        "-o",
        str(output),
        "--model",
        str(model),
    ]
    with subprocess.Popen(
        [sys.executable, *words, "--batch-size", "2"],
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as process:
        while process.poll() is None and not (output.exists() and output.stat().st_size):
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        err = process.stderr.read()
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("captioning: interrupted")
    assert "Traceback" not in err
    text = output.read_text()
    assert text.endswith("\n")
    assert 0 < len(rows(text)) < 4000


def test_names_reach_standard_error_as_they_are(caption, tmp_path):
    """Not broken at a terminal's width; no markup, no emoji by its name."""
    name = f"{'long ' * 30}:dog: [red].jpg"
    (tmp_path / name).write_bytes(b"not an image")
    said = caption(tmp_path)
    assert said.code == 1
    assert name in said.err


@pytest.mark.parametrize("named", [".", "./photo1.jpg", "../photos"])
def test_text_files_stand_beside_photos_however_their_path_is_written(
    named, caption, photos, monkeypatch
):
    folder = Path(photos[0]).parent
    monkeypatch.chdir(folder)
    said = caption(named, "--format", "txt")
    assert (said.code, said.err) == (0, "")
    texts = sorted(path.name for path in folder.glob("*.txt"))
    assert "photo1.txt" in texts
    assert len(texts) == (1 if named.endswith(".jpg") else len(photos))
    before = (folder / "photo1.txt").read_text()
    (folder / "photo1.txt").write_text("mine\n")
    assert caption(named, "--format", "txt", "--resume").code == 0
    assert (folder / "photo1.txt").read_text() == "mine\n" != before


def test_an_output_that_is_a_link_is_written_through(caption, photos, tmp_path):
    real, link = tmp_path / "elsewhere" / "real.csv", tmp_path / "link.csv"
    real.parent.mkdir()
    link.symlink_to(real)
    assert caption(*photos, "-o", link, "--overwrite").code == 0
    assert link.is_symlink()
    assert len(real.read_text().splitlines()) == len(photos) + 1


def test_an_output_that_is_a_pipe_is_written_into(caption, photos, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()))
    reader.start()
    assert caption(*photos, "-o", pipe, "--format", "csv", "--overwrite").code == 0
    reader.join(20)
    assert len(received[0].splitlines()) == len(photos) + 1
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_shares_merged_from_another_folder_lead_to_the_same_photos(
    caption, photos, tmp_path, monkeypatch
):
    """file_name is the way from the output, wherever one stands when the shares are merged."""
    write_photos(photos[0].parent, 3)
    monkeypatch.chdir(photos[0].parent.parent)
    parts = [tmp_path / "shares" / f"part-{i}.jsonl" for i in (1, 2)]
    parts[0].parent.mkdir()
    for number, part in enumerate(parts, 1):
        assert caption(photos[0].parent.name, "--shard", f"{number}/2", "-o", part).code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    names = merged_names(parts, Path("all.jsonl"))
    assert len(names) == len(list(photos[0].parent.iterdir())) > 2
    assert all(Path(name).is_file() for name in names)


def merged_names(parts, output):
    with pytest.raises(SystemExit) as ended:
        cli.main(["merge", *map(str, parts), "-o", str(output)])
    assert ended.value.code == 0
    return [json.loads(line)["file_name"] for line in output.read_text().splitlines()]


def test_moved_shares_lead_to_photos_given_by_their_whole_path(caption, photos, tmp_path):
    home = tmp_path / "collected" / "from machines"
    home.mkdir(parents=True)
    for number in (1, 2):
        part = tmp_path / f"part-{number}.jsonl"
        assert caption(photos[0].parent, "--shard", f"{number}/2", "-o", part).code == 0
        for path in (part, journal_of(part)):
            path.rename(home / path.name)
    names = merged_names(sorted(home.glob("*.jsonl")), home / "all.jsonl")
    assert len(names) == len(photos)
    assert all((home / name).is_file() for name in names)


def test_a_share_may_be_a_link_to_one(caption, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos[0].parent.parent)
    links = []
    for number in (1, 2):
        part = tmp_path / f"kept-{number}.jsonl"
        assert caption(photos[0].parent.name, "--shard", f"{number}/2", "-o", part).code == 0
        links.append(tmp_path / "links" / f"{number}.jsonl")
        links[-1].parent.mkdir(exist_ok=True)
        links[-1].symlink_to(part)
    names = merged_names(links, tmp_path / "all.jsonl")
    assert len(names) == len(photos)
    assert all((tmp_path / name).is_file() for name in names)
