"""``captioning caption``: one output per image."""

from pathlib import Path

import pytest
from caption_runs import parse_rows


def test_txt_files_are_kept_appended_to_or_replaced(caption, photos):
    text = photos[0].with_suffix(".txt")
    text.write_text("mine\n")
    assert caption(*photos, "--format", "txt").code == 0
    assert text.read_text() == "mine\n"
    for _ in range(2):  # an equal caption is not appended twice
        assert caption(*photos, "--format", "txt", "--append").code == 0
    first, second = text.read_text().splitlines()
    assert first == "mine"
    assert caption(*photos, "--format", "txt", "--overwrite").code == 0
    assert text.read_text().splitlines() == [second]


def test_txt_file_that_cannot_be_written_fails_one_image(caption, photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "photo2.txt").mkdir()
    ran = caption(*photos, "--format", "txt", "-o", tmp_path / "out", "--overwrite")
    assert ran.code == 1
    assert "1 of 3 images could not be captioned" in ran.err
    assert (tmp_path / "out" / "photo3.txt").read_text()


@pytest.mark.parametrize("flag", [None, "--overwrite", "--append"])
def test_image_named_like_a_txt_file_is_not_replaced(flag, caption, photos):
    disguised = photos[0].rename(photos[0].with_suffix(".txt"))
    before = disguised.read_bytes()
    ran = caption(disguised, photos[1], "--format", "txt", *([flag] if flag else []))
    assert disguised.read_bytes() == before
    assert photos[1].with_suffix(".txt").exists()
    assert ran.code == (1 if flag else 0)
    assert ("1 of 2 images could not be captioned" in ran.err) == bool(flag)


@pytest.mark.parametrize("path", [".", "./photo1.jpg", "../photos"])
def test_txt_files_are_next_to_images_of_relative_paths(path, caption, photos, monkeypatch):
    folder = Path(photos[0]).parent
    monkeypatch.chdir(folder)
    ran = caption(path, "--format", "txt")
    assert (ran.code, ran.err) == (0, "")
    texts = sorted(path.name for path in folder.glob("*.txt"))
    assert "photo1.txt" in texts
    assert len(texts) == (1 if path.endswith(".jpg") else len(photos))


def test_xmp_sidecars_leave_images_unchanged(caption, photos, tmp_path):
    originals = [photo.read_bytes() for photo in photos]
    plain = [row["text"] for row in parse_rows(caption(*photos).out)]
    assert caption(*photos, "--format", "xmp").code == 0
    for photo, text in zip(photos, plain, strict=True):
        assert text in photo.with_suffix(".xmp").read_text()
    assert [photo.read_bytes() for photo in photos] == originals
    again = caption(*photos, "--format", "xmp")
    assert "Skipped 3 images with existing captions." in again.err
