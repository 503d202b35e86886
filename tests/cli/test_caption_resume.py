"""``captioning caption``: runs that are stopped, fail, or resume."""

import json
import os
import re
import shutil
import signal
import tarfile
import tempfile
from pathlib import Path

import pytest
from caption_runs import parse_rows, read_folder, read_rows, signal_at, stop_after
from small_captioner import write_photos

from captioning.bulk.journal import read_metadata
from captioning.bulk.writers.tables import CsvWriter, JsonLinesWriter
from captioning.inference.captioner import Captioner


def change(photo):
    """Replace a photo by another image."""
    (other,) = write_photos(photo.parent.parent, 1, start=9, size=(56, 40))
    other.replace(photo)


@pytest.mark.parametrize(
    "name", ["rows.jsonl", "rows.csv", "rows.json", "rows.html", "rows.parquet"]
)
def test_resumed_run_equals_an_undisturbed_one(
    name, caption, photos, tmp_path, monkeypatch, decoded
):
    photos[0].write_bytes(b"")
    whole, parts = tmp_path / "whole" / name, tmp_path / "parts" / name
    assert caption(photos[0].parent, "-o", whole).code == 1
    decoded.clear()
    monkeypatch.chdir(tmp_path)
    assert caption(photos[0].parent, "-o", parts, "--limit", "2", "--batch-size", "1").code == 1
    assert caption(photos[0].parent, "-o", parts).code == 1
    # The damaged image is tried again, the captioned one is not.
    assert decoded[1:] == [str(photos[1]), str(photos[0]), str(photos[2])]
    assert read_folder(parts.parent) == read_folder(whole.parent)
    assert caption(photos[0].parent, "-o", parts).code == 1
    assert len(decoded) == 5
    assert read_folder(parts.parent) == read_folder(whole.parent)


def test_changed_and_new_images_are_captioned_again(caption, photos, tmp_path, decoded):
    output = tmp_path / "rows.jsonl"
    photos[1].write_bytes(b"")
    assert caption(photos[0].parent, "-o", output).code == 1
    change(photos[1])
    write_photos(photos[0].parent, 1, start=0)
    decoded.clear()
    assert caption(photos[0].parent, "-o", output).code == 0
    assert [Path(name).name for name in decoded] == ["photo0.jpg", "photo2.jpg"]
    names = [Path(row["file_name"]).name for row in read_rows(output)]
    assert names == [f"photo{number}.jpg" for number in range(4)]


def test_images_not_given_again_lose_their_rows(caption, photos, tmp_path, decoded):
    output = tmp_path / "rows.jsonl"
    assert caption(*photos[:2], "-o", output).code == 0
    ran = caption(photos[2], "-o", output)
    assert "Removed the rows of 2 images of earlier runs" in ran.err
    assert [row["file_name"] for row in read_rows(output)] == ["photos/photo3.jpg"]
    assert caption(*photos, "-o", output).err == ""
    assert [row["file_name"] for row in read_rows(output)] == [
        f"photos/{photo.name}" for photo in photos
    ]
    assert len(decoded) == 3


def test_missing_thumbnail_is_created_again(caption, photos, tmp_path):
    output = tmp_path / "page.html"
    assert caption(*photos, "-o", output).code == 0
    thumbnail = min((tmp_path / "page_files").rglob("*.jpg"))
    before = thumbnail.read_bytes()
    thumbnail.unlink()
    assert caption(*photos, "-o", output).code == 0
    assert thumbnail.read_bytes() == before


def test_equal_names_in_archive_keep_their_captions(caption, photos, tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for photo in (*photos, *photos):
            archive.add(photo, "x.jpg")
    expected = [row["text"] for row in parse_rows(caption(*photos).out)] * 2
    for _ in range(2):
        ran = caption(tmp_path / "s.tar", "-o", tmp_path / "rows.jsonl", "--batch-size", "2")
        assert ran.code == 0
        assert [row["text"] for row in read_rows(tmp_path / "rows.jsonl")] == expected


def test_resume_with_another_search_is_refused(caption, photos, tmp_path):
    output = tmp_path / "rows.jsonl"
    assert caption(photos[0], "-o", output).code == 0
    before = output.read_bytes()
    ran = caption(photos[0], "-o", output, "--width", "1")
    assert ran.code == 2
    assert re.search(r"settings differ: --width was \d and is now 1\. Use the same", ran.err)
    assert output.read_bytes() == before
    assert caption(photos[0], "-o", output, "--width", "1", "--overwrite").code == 0


def test_output_without_journal_is_not_replaced(caption, photos, tmp_path):
    output = tmp_path / "rows.jsonl"
    output.write_text("mine\n")
    ran = caption(photos[0], "-o", output)
    assert ran.code == 2
    assert "rows.jsonl' already exists, and there is no journal" in ran.err
    assert output.read_text() == "mine\n"
    assert caption(photos[0], "-o", output, "--overwrite").code == 0
    assert len(read_rows(output)) == 1


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs /dev/shm")
def test_file_in_shared_memory_is_not_replaced(caption, photos):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        output = Path(folder, "rows.jsonl")
        output.write_text("mine\n")
        ran = caption(*photos, "-o", output)
        assert ran.code == 2
        assert "already exists, and there is no journal" in ran.err
        assert output.read_text() == "mine\n"


def test_output_changed_by_hand_is_not_replaced(caption, photos, tmp_path):
    output = tmp_path / "rows.jsonl"
    assert caption(*photos, "-o", output).code == 0
    output.write_text(output.read_text() + "my own row\n")
    ran = caption(*photos, "-o", output)
    assert ran.code == 2
    assert "rows.jsonl' has been changed since the last run" in ran.err
    assert "my own row" in output.read_text()
    assert caption(*photos, "-o", output, "--overwrite").code == 0


def test_copied_folder_resumes_without_captioning(caption, photos, tmp_path, decoded):
    folder = photos[0].parent
    for name in ("metadata.jsonl", "page.html"):
        assert caption(folder, "-o", folder / name).code == 0
        decoded.clear()
        copy = tmp_path / f"copy of {name}"
        shutil.copytree(folder, copy, copy_function=shutil.copyfile)  # with new times
        before = (copy / name).read_bytes()
        ran = caption(copy, "-o", copy / name)
        assert (ran.code, decoded) == (0, [])
        assert "Removed the rows" not in ran.err
        assert (copy / name).read_bytes() == before


def test_images_are_recognized_by_content(caption, photos, tmp_path, decoded, monkeypatch):
    folder, output = photos[0].parent, tmp_path / "rows.jsonl"
    assert caption(folder, "-o", output).code == 0
    texts = [row["text"] for row in read_rows(output)]
    decoded.clear()
    os.utime(photos[0], (0, 0))
    photos[1].rename(folder / "Photo2 renamed.jpg")
    content = photos[2].read_bytes()
    photos[2].unlink()
    photos[2].write_bytes(content)  # another inode
    monkeypatch.chdir(folder)
    ran = caption("./", "-o", output)
    assert (ran.code, ran.err, decoded) == (0, "", [])
    assert sorted(row["text"] for row in read_rows(output)) == sorted(texts)


def test_moved_output_finds_its_images(caption, photos, tmp_path, decoded):
    folder = photos[0].parent
    assert caption(folder, "-o", tmp_path / "rows.jsonl").code == 0
    decoded.clear()
    for place, previous in ((tmp_path / "new", tmp_path), (tmp_path, tmp_path / "new")):
        place.mkdir(exist_ok=True)
        for name in ("rows.jsonl", ".rows.jsonl.journal"):
            (previous / name).rename(place / name)
        ran = caption(folder, "-o", place / "rows.jsonl")
        assert (ran.code, ran.err, decoded) == (0, "", [])


def test_changed_image_with_restored_time_is_captioned(caption, photos, tmp_path, decoded):
    output = tmp_path / "rows.jsonl"
    assert caption(*photos, "-o", output).code == 0
    decoded.clear()
    status, content = photos[0].stat(), bytearray(photos[0].read_bytes())
    content[-20] ^= 1
    photos[0].write_bytes(content)
    os.utime(photos[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert caption(*photos, "-o", output).code == 0
    assert decoded == [str(photos[0])]


def test_images_of_a_copied_archive_are_recognized(caption, photos, tmp_path, decoded):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for photo in photos:
            archive.add(photo, photo.name)
    assert caption(tmp_path / "a.tar", "-o", tmp_path / "rows.jsonl").code == 0
    decoded.clear()
    (tmp_path / "a.tar").rename(tmp_path / "b.tar")
    assert caption(tmp_path / "b.tar", "-o", tmp_path / "rows.jsonl").code == 0
    assert decoded == []


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet"])
def test_older_output_of_the_run_is_replaced(name, caption, photos, tmp_path, decoded):
    output = tmp_path / name
    assert caption(*photos[:2], "-o", output).code == 0
    older = output.read_bytes()
    assert caption(*photos, "-o", output).code == 0
    newest = output.read_bytes()
    output.write_bytes(older if name.endswith("parquet") else older.replace(b"\r\n", b"\n"))
    assert caption(*photos, "-o", output).code == 0
    assert output.read_bytes() == newest
    assert len(decoded) == 3


def test_run_killed_after_its_output_was_renamed_resumes(caption, photos, tmp_path, monkeypatch):
    output = tmp_path / "rows.csv"
    assert caption(*photos[:2], "-o", output).code == 0

    def kill(*_, **__):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("captioning.cli.caption._finish_journal", kill)
        with pytest.raises(RuntimeError, match="killed"):
            caption(*photos, "-o", output)
    assert caption(*photos, "-o", output).code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.html"])
def test_interrupted_run_finishes_its_batch(name, number, caption, photos, tmp_path):
    output = tmp_path / "out" / name
    words = (photos[0].parent, "-o", output, "--batch-size", "2")
    ran = signal_at("photo2.jpg", number, caption, *words)
    assert ran.code == 128 + number
    assert ran.err.splitlines()[-1] == (
        "captioning: interrupted after 2 images. To resume, run the same command."
    )
    text = output.read_text()
    assert "photo2" in text
    assert "photo3" not in text
    assert not name.endswith("html") or text.rstrip().endswith("</html>")
    assert caption(*words).code == 0
    assert "photo3" in output.read_text()


def test_interrupted_run_keeps_a_longer_output(caption, photos, tmp_path):
    output = tmp_path / "rows.jsonl"
    words = (photos[0].parent, "-o", output, "--batch-size", "1")
    assert caption(*words).code == 0
    before = output.read_bytes()
    change(photos[0])
    assert signal_at(".jpg", signal.SIGINT, caption, *words).code == 130
    assert output.read_bytes() == before
    assert caption(*words).code == 0
    assert len(read_rows(output)) == 3


def test_interrupted_extension_of_a_run_resumes(caption, photos, tmp_path):
    words = (photos[0].parent, "-o", tmp_path / "out.jsonl", "--batch-size", 1)
    assert caption(*words, "--limit", 1).code == 0
    stopped = stop_after(2, caption, *words)
    assert stopped.code == 130
    assert read_metadata(tmp_path / ".out.jsonl.journal")["finished"] is None
    assert caption(*words).code == 0
    whole = tmp_path / "whole.jsonl"
    caption(photos[0].parent, "-o", whole)
    assert (tmp_path / "out.jsonl").read_text() == whole.read_text()


def test_interrupted_overwrite_resumes_without_the_flag(caption, photos, tmp_path):
    words = (photos[0].parent, "-o", tmp_path / "out.jsonl", "--batch-size", 1)
    stopped = stop_after(2, caption, *words, "--overwrite")
    assert "To resume, run the same command without --overwrite." in stopped.err
    again = json.loads(caption(*words, "--json").out)
    assert again["from_earlier_runs"] == 2


@pytest.mark.parametrize("name", ["rows.csv", "rows.html", "rows.json"])
def test_failed_run_keeps_the_older_document(name, caption, photos, tmp_path, monkeypatch):
    output = tmp_path / name
    assert caption(photos[0].parent, "-o", output).code == 0
    before = output.read_bytes()

    def fail(*_, **__):
        raise RuntimeError("a defect")
        yield

    monkeypatch.setattr(Captioner, "caption_batches", fail)
    change(photos[0])
    with pytest.raises(RuntimeError, match="a defect"):
        caption(photos[0].parent, "-o", output)
    assert output.read_bytes() == before
    assert (tmp_path / f"{output.name}.part").exists()


@pytest.mark.parametrize(
    ("writer", "name", "kept"),
    [(JsonLinesWriter, "rows.jsonl", "rows.jsonl"), (CsvWriter, "rows.csv", "rows.csv.part")],
)
def test_full_disk_ends_run_and_keeps_written_rows(
    writer, name, kept, caption, photos, tmp_path, monkeypatch
):
    real = writer._write_row

    def write_row(self, row):
        if row.image.endswith("photo3.jpg"):
            raise OSError(28, "No space left on device")
        real(self, row)

    monkeypatch.setattr(writer, "_write_row", write_row)
    ran = caption(photos[0].parent, "-o", tmp_path / name)
    assert ran.code == 1
    assert "cannot write the results: [Errno 28] No space left on device. Free some" in ran.err
    assert "photo2" in (tmp_path / kept).read_text()
