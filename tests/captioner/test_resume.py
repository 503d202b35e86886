import json
from pathlib import Path

import pytest

from captioning.captioner import open_writer
from captioning.captioner.results import Caption, CaptionedPicture
from captioning.captioner.resume import finished
from captioning.captioner.sidecars import sidecar_paths
from captioning.errors import OutputError, SettingsError


def result(source, text="a dog runs"):
    words = tuple(text.split())
    return CaptionedPicture(source, (Caption(text, words, -1.5, True, (-0.5,) * len(words)),))


def names(paths):
    return {source: path.name for source, path in paths.items()}


# --- the names of text files ---------------------------------------------------------------------


def test_a_text_file_has_the_name_of_its_photo():
    assert sidecar_paths(["x/a.jpg", "b.jpeg"], None, ".txt") == {
        "x/a.jpg": Path("x/a.txt"),
        "b.jpeg": Path("b.txt"),
    }
    assert sidecar_paths(["x/a.jpg"], Path("out"), ".caption")["x/a.jpg"] == Path("out/a.caption")


def test_photos_of_one_stem_do_not_share_a_text_file():
    paths = sidecar_paths(["a.jpg", "a.png", "A.gif", "b.jpg"], None, ".txt")
    assert names(paths) == {
        "a.jpg": "a.jpg.txt",
        "a.png": "a.png.txt",
        "A.gif": "A.gif.txt",  # the same file as a.txt where case does not count
        "b.jpg": "b.txt",
    }


def test_photos_of_one_name_from_many_folders_do_not_share_a_text_file():
    sources = [f"{folder}/a.jpg" for folder in "xyz"]
    assert len(set(sidecar_paths(sources, None, ".txt").values())) == 3
    together = sidecar_paths(sources, Path("out"), ".txt")
    assert list(names(together).values()) == ["a.jpg.txt", "a.jpg-2.txt", "a.jpg-3.txt"]


def test_a_name_that_a_photo_has_of_right_is_not_given_to_another():
    sources = ["a.jpg", "a.png", "a.jpg.gif"]  # the last one's own text file is a.jpg.txt
    paths = sidecar_paths(sources, None, ".txt")
    assert names(paths)["a.jpg.gif"] == "a.jpg.txt"
    assert len(set(paths.values())) == 3


def test_five_thousand_photos_of_one_name_are_told_apart():
    sources = [f"{folder}/a.jpg" for folder in range(4000)] + [f"b{n}.jpg" for n in range(1000)]
    assert len(set(sidecar_paths(sources, Path("out"), ".txt").values())) == 5000


# --- text files that are there already -----------------------------------------------------------


def test_text_files_that_are_there_are_left_alone_unless_told_otherwise(tmp_path):
    photo = str(tmp_path / "a.jpg")
    notes = tmp_path / "a.txt"
    notes.write_text("my own notes")
    with pytest.raises(OutputError, match=r"1 of the text files exist, the first is .*a.txt. Give"):
        open_writer("txt", None, sources=[photo])
    assert notes.read_text() == "my own notes"
    with open_writer("txt", None, sources=[photo], existing="replace") as writer:
        writer.write(result(photo))
    assert notes.read_text() == "a dog runs\n"
    assert finished("txt", None, [photo, str(tmp_path / "b.jpg")]).sources == {photo}


# --- JSON lines ----------------------------------------------------------------------------------


def write_rows(path, sources, *, existing="refuse"):
    with open_writer("jsonl", path, sources=sources, existing=existing) as writer:
        for source in sources:
            failed = CaptionedPicture(source, (), "broken")
            writer.write(failed if source == "bad.jpg" else result(source))


ODD = ["a.jpg", "bad.jpg", 'quote".jpg', "new\nline.jpg", "caf\udce9.jpg", "日本.jpg", "c.jpg"]


@pytest.mark.parametrize("killed_after", range(0, 700, 23))
def test_a_run_that_was_cut_anywhere_ends_as_if_it_had_not_been(killed_after, tmp_path):
    whole, output = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    write_rows(whole, ODD)
    output.write_bytes(whole.read_bytes()[:killed_after])
    done = finished("jsonl", output, ODD)
    write_rows(output, [source for source in ODD if source not in done.sources], existing="keep")
    assert output.read_bytes() == whole.read_bytes()


def test_what_failed_before_is_counted(tmp_path):
    output = tmp_path / "rows.jsonl"
    write_rows(output, ODD)
    done = finished("jsonl", output, ODD)
    assert done.sources == set(ODD)
    assert done.failed == 1
    assert finished("jsonl", tmp_path / "new.jsonl", ODD).sources == frozenset()


@pytest.mark.parametrize("line", ["no json", '{"other": 1}', "[1]", "3"])
def test_a_file_of_something_else_is_left_as_it_is(line, tmp_path):
    output = tmp_path / "notes.jsonl"
    content = json.dumps({"image": "a.jpg", "caption": "x"}) + f"\n{line}\nhalf"
    output.write_text(content)
    with pytest.raises(OutputError, match=r"Line 2 of .*notes.jsonl is no caption of ours"):
        finished("jsonl", output, ["a.jpg"])
    assert output.read_text() == content


@pytest.mark.parametrize(
    ("form", "output"), [("csv", "a.csv"), ("html", "a.html"), ("jsonl", None)]
)
def test_what_is_written_whole_cannot_be_gone_on_with(form, output):
    with pytest.raises(SettingsError, match="--resume goes on with the formats jsonl"):
        finished(form, Path(output) if output else None, [])
