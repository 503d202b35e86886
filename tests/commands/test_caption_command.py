"""``captioning caption`` as a person or a script meets it: streams, files and exit codes."""

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
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from pycocotools.coco import COCO
from small_captioner import small_checkpoint, write_photos

import captioning.data.reading as reading
from captioning import cli
from captioning.checkpoint import save_checkpoint
from captioning.commands import caption as command


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
    assert "no pictures by their endings" in ran.err


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
        (["EMPTY"], r"There is no photo in .*empty. Add --recursive"),
        (["x.jpg", "--beam", "3", "--sample"], "two ways to search"),
        (["x.jpg", "--top-k", "3"], "Add --sample"),
        (["x.jpg", "--batch-size", "0"], "batch_size is 0; it is at least 1"),
        (["x.jpg", "--captions", "0"], "captions is 0; it is at least 1"),
        (["x.jpg", "--time-limit", "0"], "time_limit is 0"),
        (["x.jpg", "-o", "out.xyz"], "The format cannot be told from -o out.xyz"),
        (["x.jpg", "--resume", "--overwrite"], "--resume keeps what --overwrite replaces"),
        (["x.jpg", "--resume"], "--resume goes on with the formats jsonl"),
        (["x.jpg", "--beam", "2", "--captions", "5"], "width|captions"),
    ],
)
def test_wrong_usage_is_told_and_exits_with_2(words, reason, caption, tmp_path):
    (tmp_path / "empty").mkdir()
    ran = caption(*[str(tmp_path / "empty") if word == "EMPTY" else word for word in words])
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("captioning: ")
    assert re.search(reason, ran.err)


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


def test_the_list_of_commands_needs_less_than_a_second():
    start = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-m", "captioning", "--help"], capture_output=True, text=True, check=False
    )
    assert time.perf_counter() - start < 1
    assert ran.returncode == 0
    assert "caption photos and folders" in ran.stdout


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
    assert [row[0] for row in csv.reader(io.StringIO(ran.out))][1] == "'=1+1.jpg"


def test_every_name_is_one_cell_and_no_two_names_become_one(caption, photos, monkeypatch):
    monkeypatch.chdir(photos[0].parent)
    names = ["=a.jpg", "'=a.jpg", "two\r=lines.jpg"]
    for photo, name in zip(photos, names, strict=True):
        photo.rename(name)
    ran = caption(*names, "--format", "csv")
    _, *found = csv.reader(io.StringIO(ran.out, newline=""))
    assert [row[0] for row in found] == ["'=a.jpg", "''=a.jpg", "two\r=lines.jpg"]
    assert all(len(row) == 4 for row in found)


def test_a_photo_called_like_a_text_file_is_not_written_over(caption, photos):
    disguised = photos[0].rename(photos[0].with_suffix(".txt"))
    before = disguised.read_bytes()
    for more in ([], ["--overwrite"]):
        ran = caption(disguised, "--format", "txt", *more)
        assert ran.code != 0
        assert disguised.read_bytes() == before
    assert "is one of the photos" in ran.err


class _Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text, self.pictures = [], "", []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.pictures += [value for name, value in attrs if tag == "img" and name == "src"]

    def handle_data(self, data):
        self.text += data


def test_a_page_shows_names_as_text_and_holds_its_pictures(caption, odd_photos, tmp_path):
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
    assert len(page.pictures) == len(odd_photos)
    assert all(picture.startswith("data:image/jpeg;base64,") for picture in page.pictures)


def test_text_files_stand_beside_photos_of_any_name(caption, odd_photos, tmp_path):
    assert caption(tmp_path / "odd", "--format", "txt").code == 0
    for path in odd_photos:
        assert Path(os.fsdecode(path)).with_suffix(".txt").read_text(encoding="utf-8").strip()
    assert caption(tmp_path / "odd", "--format", "txt").code == 1  # they are not written over
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
    write_photos(tmp_path, 3, start=7)
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
    assert "folder cannot be written" in ran.err


def test_a_photo_is_never_written_over(caption, photos, tmp_path):
    before = photos[1].read_bytes()
    link = tmp_path / "rows.jsonl"
    link.symlink_to(photos[1])
    for output in (photos[1], link):
        ran = caption(photos[0].parent, "-o", output, "--format", "jsonl")
        assert ran.code == 2
        assert "is one of the photos" in ran.err
    assert photos[1].read_bytes() == before


def test_a_resumed_run_captions_only_what_is_lacking(caption, photos, tmp_path, monkeypatch):
    output = tmp_path / "rows.jsonl"
    photos[0].write_bytes(b"")
    assert caption(photos[0].parent, "-o", output).code == 1
    whole = output.read_bytes()
    output.write_bytes(whole[: whole.index(b"\n", whole.index(b"photo2")) + 20])
    asked = []
    real = reading.read_image
    monkeypatch.setattr(
        reading, "read_image", lambda source, **how: asked.append(source) or real(source, **how)
    )
    ran = caption(photos[0].parent, "-o", output, "--resume")
    assert ran.code == 1  # the first photo is still damaged
    assert asked == [str(photos[2])]
    assert output.read_bytes() == whole


# --- ends before the end -------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "ending"), [("jsonl", "jsonl"), ("csv", "csv"), ("html", "html")])
def test_an_interrupted_run_keeps_what_it_has(form, ending, caption, photos, tmp_path, monkeypatch):
    real = command._watched

    def interrupted(results, *others):
        for number, result in enumerate(real(results, *others)):
            if number == 2:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(command, "_watched", interrupted)
    output = tmp_path / f"rows.{ending}"
    ran = caption(photos[0].parent, "-o", output, "--format", form)
    assert ran.code == 130
    assert "interrupted" in ran.err
    text = output.read_text()
    assert "photo2" in text
    assert "photo3" not in text
    assert form != "html" or text.rstrip().endswith("</html>")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [output.name]


@pytest.mark.parametrize(("form", "ending"), [("csv", "csv"), ("html", "html"), ("coco", "json")])
def test_an_error_of_our_own_leaves_the_older_document(
    form, ending, caption, photos, tmp_path, monkeypatch
):
    output = tmp_path / f"rows.{ending}"
    assert caption(photos[0].parent, "-o", output, "--format", form).code == 0
    before = output.read_bytes()

    def broken(results, *others):
        yield next(iter(results))
        raise RuntimeError("a defect")

    monkeypatch.setattr(command, "_watched", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        cli.main(["caption", str(photos[0].parent), "-o", str(output), "--format", form])
    assert output.read_bytes() == before
    assert (tmp_path / f"{output.name}.part").exists()


@pytest.mark.parametrize(("form", "kept"), [("jsonl", "rows.jsonl"), ("csv", "rows.csv.part")])
def test_a_full_disk_ends_the_run_and_keeps_what_was_written(
    form, kept, caption, photos, tmp_path, monkeypatch
):
    import captioning.captioner.writers as writers

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
    words = [sys.executable, "-m", "captioning", "caption", str(tmp_path), "--model", str(model)]
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.startswith("captioning: The results cannot be written")
    assert ran.stderr.count("\n") == 1
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.skipif(sys.platform != "linux", reason="signals to a group of processes")
def test_ctrl_c_at_the_terminal_leaves_whole_rows_and_no_traceback(model, tmp_path):
    (photo,) = write_photos(tmp_path, 1)
    names = []
    for number in range(4000):
        names.append(tmp_path / f"link{number}.jpg")
        os.link(photo, names[-1])
    output = tmp_path / "rows.jsonl"
    words = ["-m", "captioning", "caption", str(tmp_path), "-o", str(output), "--model", str(model)]
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
    (tmp_path / name).write_bytes(b"not a picture")
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
