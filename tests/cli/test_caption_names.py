"""``captioning caption``: file names with any bytes, in every output format."""

import base64
import csv
import html.parser
import io
import os
import shutil
import subprocess
import sys
import urllib.parse
from pathlib import Path
from types import SimpleNamespace

import pytest
from caption_runs import parse_rows, read_rows
from conftest import ODD_NAMES
from PIL import Image

from captioning.bulk.writers.tables import unescape_bytes


def test_jsonl_keeps_every_byte_of_names(caption, odd_photos, tmp_path):
    output = tmp_path / "rows.jsonl"
    assert caption(tmp_path / "odd", "-o", output).code == 0
    names = [unescape_bytes(row["file_name"]) for row in read_rows(output)]
    assert {os.fsencode(tmp_path / name) for name in names} == set(odd_photos)


def test_jsonl_on_stdout_is_utf8_in_any_locale(odd_photos, model):
    folder = os.path.dirname(odd_photos[0])  # noqa: PTH120
    words = [sys.executable, "-m", "captioning", "caption", folder, "--model", model]
    words += ["--workers", "0", "--precision", "float32"]  # starts faster
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    ran = subprocess.run(words, env=environment, capture_output=True, check=True)
    names = [unescape_bytes(row["file_name"]) for row in parse_rows(ran.stdout.decode())]
    assert {os.fsencode(name) for name in names} == set(odd_photos)


def test_csv_keeps_each_name_in_one_cell(caption, odd_photos, tmp_path):
    output = tmp_path / "rows.csv"
    assert caption(tmp_path / "odd", "-o", output).code == 0
    with output.open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(odd_photos)
    names = {Path(row["file_name"]).name for row in table}
    exact = {name for name in map(os.fsdecode, ODD_NAMES) if "utf-8" not in name}
    assert exact < names
    assert "no utf-8 \\udce9\\udcff.jpg" in names


def test_csv_escapes_formulas_without_name_clashes(caption, photos, monkeypatch):
    monkeypatch.chdir(photos[0].parent)
    names = ["=a.jpg", "'=a.jpg", "two\r=lines.jpg"]
    for photo, name in zip(photos, names, strict=True):
        photo.rename(name)
    ran = caption(*names, "--format", "csv")
    found = list(csv.DictReader(io.StringIO(ran.out, newline=""), strict=True))
    assert [row["file_name"] for row in found] == ["./=a.jpg", "./'=a.jpg", "two\r=lines.jpg"]
    assert all(Path(row["file_name"]).is_file() for row in found)
    assert not any(None in row or None in row.values() for row in found)


class _Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.images = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.images += [value for name, value in attrs if tag == "img" and name == "src"]

    def handle_data(self, data):
        self.text += data


def test_html_shows_names_as_text_and_loads_images(caption, odd_photos, tmp_path):
    output = tmp_path / "page.html"
    (tmp_path / "odd" / "<script>alert(1)<_script>.jpg").write_bytes(b"")
    assert caption(tmp_path / "odd", "-o", output).code == 1
    page = _Page(output.read_text(encoding="utf-8"))
    assert "b" not in page.tags
    assert page.tags.count("script") == 0
    assert page.tags.count("figure") == len(odd_photos) + 1
    assert "<b>&amp;.jpg" in page.text
    assert "<script>alert(1)" in page.text
    assert len(set(page.images)) == len(odd_photos)
    for address in page.images:
        with Image.open(tmp_path / urllib.parse.unquote(address)) as thumbnail:
            assert thumbnail.format == "JPEG"


def test_html_on_stdout_contains_its_images(caption, photos):
    page = _Page(caption(*photos, "--format", "html").out)
    assert len(page.images) == 3
    for address in page.images:
        content = base64.b64decode(address.removeprefix("data:image/jpeg;base64,"), validate=True)
        with Image.open(io.BytesIO(content)) as thumbnail:
            assert thumbnail.format == "JPEG"


def test_txt_files_are_written_for_any_name(caption, odd_photos, tmp_path):
    assert caption(tmp_path / "odd", "--format", "txt").code == 0
    for path in odd_photos:
        assert Path(os.fsdecode(path)).with_suffix(".txt").read_text(encoding="utf-8").strip()
    again = caption(tmp_path / "odd", "--format", "txt")
    assert again.code == 0
    assert f"Skipped {len(odd_photos)} images with existing captions." in again.err
    assert caption(tmp_path / "odd", "--format", "txt", "--overwrite").code == 0


def test_terminal_output_escapes_control_characters(caption, tmp_path):
    (tmp_path / "red\x1b[31m\n.jpg").write_bytes(b"")
    ran = caption(tmp_path, "--format", "text")
    assert ran.code == 1
    assert "\x1b" not in ran.out + ran.err
    assert "red\\x1b[31m\\n.jpg" in ran.err


def test_stderr_prints_long_names_unchanged(caption, tmp_path):
    """Names are not wrapped, and not interpreted as markup or emoji."""
    name = f"{'long ' * 30}:dog: [red].jpg"
    (tmp_path / name).write_bytes(b"not an image")
    ran = caption(tmp_path)
    assert ran.code == 1
    assert name in ran.err


@pytest.mark.parametrize("end", [b"\n", b"\0"])
def test_stdin_list_names_are_not_patterns(end, caption, odd_photos, monkeypatch):
    listed = [path for path in odd_photos if end == b"\0" or b"\n" not in path]
    stdin = SimpleNamespace(buffer=io.BytesIO(end.join([*listed, b""])))
    monkeypatch.setattr(sys, "stdin", stdin)
    ran = caption("-")
    assert ran.code == 0
    names = [unescape_bytes(row["file_name"]) for row in parse_rows(ran.out)]
    assert [os.fsencode(name) for name in names] == listed


@pytest.mark.parametrize("pattern", ["none/*.png", "part-*.tar", "none-[0-9].jpg"])
def test_pattern_without_match_becomes_error_row(pattern, caption, photos):
    ran = caption(photos[0], pattern)
    assert ran.code == 1
    errors = [row.get("error", "") for row in parse_rows(ran.out)]
    assert errors == ["", f"no file matches '{pattern}'. Check the pattern."]


def test_pattern_of_folders_captions_their_images(caption, photos):
    folder = photos[0].parent
    pattern = folder.with_name(f"[{folder.name[0]}]{folder.name[1:]}")
    assert caption(pattern).out == caption(folder).out != ""


def test_folder_named_like_archive_is_a_folder(caption, photos, tmp_path):
    folder = photos[0].parent.rename(tmp_path / "holiday.tar")
    assert caption(folder, "--format", "txt").code == 0
    assert len(list(folder.glob("*.txt"))) == len(photos)


def test_nas_share_captions_only_its_photos(caption, photos):
    share = photos[0].parent
    for name in ("@eaDir/photo1.jpg/SYNOPHOTO_THUMB_S.jpg", "#recycle/x.jpg", "$RECYCLE.BIN/y.jpg"):
        (share / name).parent.mkdir(parents=True)
        shutil.copy(photos[0], share / name)
    ran = caption(share, "-r", "--format", "txt")
    assert ran.code == 0
    assert sorted(share.rglob("*.txt")) == [photo.with_suffix(".txt") for photo in photos]
    assert "Skipped 3 system or hidden folders: 1 #recycle, 1 $RECYCLE.BIN, 1 @eaDir." in ran.err


@pytest.mark.parametrize("words", [[], ["--dry-run"]])
def test_folder_of_camera_raw_files_says_what_it_holds(words, caption, tmp_path):
    for name in ("1.CR2", "2.cr2", "3.MOV"):
        (tmp_path / name).touch()
    ran = caption(tmp_path, *words)
    assert ran.code == 2
    assert f"no images found in '{tmp_path}'.\nSkipped 3 files, hidden or not an image: " in ran.err
    assert "2 .cr2, 1 .mov.\n  A .cr2 file is a camera raw image. Export it as JPEG.\n" in ran.err


def test_exclude_of_everything_says_so(caption, photos):
    ran = caption(photos[0].parent, "--exclude", "*.jpg", "--exclude", "raw/")
    assert ran.code == 2
    assert "Excluded files and folders: 3 '*.jpg'.\nNothing matches --exclude 'raw/'." in ran.err


def test_image_on_stdin_is_captioned(caption, photos, tmp_path, monkeypatch):
    expected = parse_rows(caption(photos[1]).out)[0]["text"]
    outputs = ([], ["-o", tmp_path / "rows.jsonl"], ["--format", "txt", "-o", tmp_path / "folder"])
    for output in outputs:
        for photo in (photos[0], photos[1]):  # the second one is not taken for the first
            stdin = SimpleNamespace(buffer=io.BytesIO(photo.read_bytes()))
            monkeypatch.setattr(sys, "stdin", stdin)
            ran = caption("-", *output)
            assert ran.code == 0
    texts = [path.read_text() for path in (tmp_path / "folder").rglob("*.txt")]
    assert f"{expected}\n" in texts
    assert [row["text"] for row in read_rows(tmp_path / "rows.jsonl")] == [expected]


def test_image_on_stdin_without_place_for_its_file_fails(caption, photos, monkeypatch):
    stdin = SimpleNamespace(buffer=io.BytesIO(photos[0].read_bytes()))
    monkeypatch.setattr(sys, "stdin", stdin)
    ran = caption("-", "--format", "txt")
    assert ran.code == 1
    assert "--format txt needs a file, and standard input is an image" in ran.err
