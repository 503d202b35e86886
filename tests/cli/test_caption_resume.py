"""``captioning caption``: runs that are stopped, fail, or resume."""

import json
import re
import signal
import tarfile
from pathlib import Path

import pytest
from caption_runs import parse_rows, read_folder, read_rows, signal_at, stop_after
from small_captioner import write_photos

from captioning.bulk.journal import read_metadata
from captioning.bulk.writers.tables import CsvWriter, JsonLinesWriter
from captioning.inference.captioner import Captioner


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
    photos[1].write_bytes(photos[0].read_bytes())
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
    assert "2 images captioned by earlier runs into this file were not given this time" in ran.err
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
    assert re.search(r"settings differ: search\.width was \d and is now 1\. Give the same", ran.err)
    assert output.read_bytes() == before
    assert caption(photos[0], "-o", output, "--width", "1", "--overwrite").code == 0


def test_output_without_journal_is_not_replaced(caption, photos, tmp_path):
    output = tmp_path / "rows.jsonl"
    output.write_text("mine\n")
    ran = caption(photos[0], "-o", output)
    assert ran.code == 2
    assert "rows.jsonl exists, but the journal of its run does not" in ran.err
    assert output.read_text() == "mine\n"
    assert caption(photos[0], "-o", output, "--overwrite").code == 0
    assert len(read_rows(output)) == 1


def test_output_changed_by_hand_is_not_replaced(caption, photos, tmp_path):
    output = tmp_path / "rows.jsonl"
    assert caption(*photos, "-o", output).code == 0
    output.write_text(output.read_text() + "my own row\n")
    ran = caption(*photos, "-o", output)
    assert ran.code == 2
    assert "rows.jsonl has been changed since the last run" in ran.err
    assert "my own row" in output.read_text()
    assert caption(*photos, "-o", output, "--overwrite").code == 0


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
    photos[0].write_bytes(photos[1].read_bytes())
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
    photos[0].write_bytes(photos[1].read_bytes())
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
