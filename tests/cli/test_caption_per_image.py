"""``captioning caption``: one output per image."""

import shutil
from pathlib import Path

import pytest
from caption_runs import parse_rows
from PIL import Image
from required_tools import require_tool

from captioning.bulk.writers.embed import CaptionEmbedder
from captioning.bulk.writers.xmp import read_xmp_caption


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


def read_caption(path):
    if path.suffix == ".xmp":
        return read_xmp_caption(path)
    embedder = CaptionEmbedder()
    try:
        return embedder.read_caption(path)
    finally:
        embedder.close()


@pytest.mark.parametrize(
    "format_name",
    ["xmp", pytest.param("embed", marks=require_tool("exiftool", bool(shutil.which("exiftool"))))],
)
def test_captions_are_written_as_metadata(format_name, caption, photos, tmp_path):
    plain = [row["text"] for row in parse_rows(caption(*photos).out)]
    originals = [photo.read_bytes() for photo in photos]
    pixels = [Image.open(photo).tobytes() for photo in photos]
    out = tmp_path / "out"
    words = (*photos, "--format", format_name)
    assert caption(*words, "-o", out).code == 0
    written = [out / photo.name for photo in photos]
    if format_name == "xmp":
        written = [path.with_suffix(".xmp") for path in written]
    assert [read_caption(path) for path in written] == plain
    assert [photo.read_bytes() for photo in photos] == originals
    again = caption(*words, "-o", out)
    assert "Skipped 3 images with existing captions." in again.err
    assert caption(*words).code == 0  # next to the images, or in them
    targets = [photo.with_suffix(".xmp") if format_name == "xmp" else photo for photo in photos]
    assert [read_caption(path) for path in targets] == plain
    assert f"The caption of '{photos[0]}' is '{plain[0]}'. Use" in caption(*words).err
    assert [Image.open(photo).tobytes() for photo in photos] == pixels
