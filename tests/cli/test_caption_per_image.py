"""``captioning caption``: one output per image."""

import shutil
import tarfile
from pathlib import Path

import pytest
from caption_runs import parse_rows, read_folder
from PIL import Image
from required_tools import require_tool

from captioning.bulk.writers.embed import CaptionEmbedder
from captioning.bulk.writers.xmp import read_description, replace_description

XMP_WITHOUT_CAPTION = b'<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/>'


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


@pytest.mark.parametrize("flag", [None, "--overwrite", "--append"])
@pytest.mark.parametrize("kind", ["folder", "link", "binary"])
@pytest.mark.parametrize("format_name", ["txt", "xmp"])
def test_unusable_file_fails_one_image_undecoded(format_name, kind, flag, caption, photos, decoded):
    place = photos[1].with_suffix(f".{format_name}")
    makers = {
        "folder": place.mkdir,
        "link": lambda: place.symlink_to("none"),
        "binary": lambda: place.write_bytes(b"GIF89a\0"),
    }
    makers[kind]()
    ran = caption(*photos, "--format", format_name, *([flag] if flag else []))
    assert ran.code == 1
    assert f"1 of 3 images could not be captioned:\n  cannot write '{place}': it" in ran.err
    assert decoded == [str(photos[0]), str(photos[2])]
    assert photos[2].with_suffix(f".{format_name}").read_text().strip()
    assert place.is_dir() or place.is_symlink() or place.read_bytes() == b"GIF89a\0"


@pytest.mark.parametrize("flags", [[], ["--append"], ["--overwrite"]])
def test_blank_files_are_replaced(flags, caption, photos):
    texts = [photo.with_suffix(".txt") for photo in photos]
    for text, content in zip(texts, [b"", b" \n", b"\xff\xfe"], strict=True):
        text.write_bytes(content)
    ran = caption(*photos, "--format", "txt", *flags)
    assert (ran.code, ran.err) == (0, "")
    assert all(len(text.read_text().splitlines()) == 1 for text in texts)


@pytest.mark.parametrize("flag", [None, "--overwrite", "--append"])
def test_image_named_like_a_txt_file_is_not_replaced(flag, caption, photos):
    disguised = photos[0].rename(photos[0].with_suffix(".txt"))
    before = disguised.read_bytes()
    ran = caption(disguised, photos[1], "--format", "txt", *([flag] if flag else []))
    assert disguised.read_bytes() == before
    assert disguised.with_name("photo1.txt.txt").exists()
    assert photos[1].with_suffix(".txt").exists()
    assert ran.code == 0


def write_archive(path, photos):
    with tarfile.open(path, "w") as archive:
        for photo in photos:
            archive.add(photo, photo.name)


def test_output_folder_has_one_file_per_image_in_any_order(caption, photos, tmp_path, monkeypatch):
    """However an image is named, it has one file; images of equal names have different files."""
    monkeypatch.chdir(tmp_path)
    for folder in ("a/1", "a/2", "b/1"):
        shutil.copytree(photos[0].parent, folder)
    for name in ("a/2/photo1.jpg", "b/1/photo1.jpg"):
        Path(name).write_bytes(photos[1].read_bytes())
    write_archive("a.tar", photos)
    write_archive("b.tar", photos[::-1])
    plain = {row["file_name"]: row["text"] for row in parse_rows(caption("a", "b", "-r").out)}
    commands = [
        ["a/2", "a.tar"],
        [tmp_path / "a", "-r"],
        ["b/*/*2.jpg", "b.tar"],
        ["b/1/photo1.jpg", "--partition", "1/1"],
        ["b", "a", "a.tar", "b.tar", "-r"],
    ]
    new = [6, 3, 4, 1, 1]
    for words, count in zip(commands, new, strict=True):
        before = read_folder(tmp_path / "caps")
        assert caption(*words, "--format", "txt", "-o", "caps").code == 0
        after = read_folder(tmp_path / "caps")
        assert before.items() <= after.items()
        assert len(after) - len(before) == count
    for image, text in plain.items():
        assert (tmp_path / "caps" / image).with_suffix(".txt").read_text() == f"{text}\n"


def test_existing_xmp_of_another_program_is_updated(caption, photos):
    digikam = photos[0].with_name("photo1.jpg.xmp")
    lightroom = photos[1].with_suffix(".xmp")
    upper = photos[2].with_name("PHOTO3.XMP")
    photos[1].with_suffix(".NEF").touch()
    described = replace_description(XMP_WITHOUT_CAPTION, "mine")
    digikam.write_bytes(described)
    lightroom.write_bytes(described)
    upper.write_bytes(XMP_WITHOUT_CAPTION)
    ran = caption(photos[0].parent, "--format", "xmp")
    assert ran.code == 0
    assert "Skipped 1 image with existing captions." in ran.err
    files = {path for path in photos[0].parent.iterdir() if path.suffix.lower() == ".xmp"}
    assert files == {digikam, lightroom, upper, photos[1].with_name("photo2.jpg.xmp")}
    assert [path.read_bytes() for path in (digikam, lightroom)] == [described] * 2
    assert read_description(upper.read_bytes())
    assert caption(photos[0], "--format", "xmp", "--append").code == 0
    assert read_description(digikam.read_bytes()).startswith("mine\n")


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
        return read_description(path.read_bytes())
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
    written = [out / "photos" / photo.name for photo in photos]
    if format_name == "xmp":
        written = [path.with_suffix(".xmp") for path in written]
    assert [read_caption(path) for path in written] == plain
    assert [photo.read_bytes() for photo in photos] == originals
    again = caption(*words, "-o", out)
    quote = f"The caption of '{photos[0]}' is '{plain[0]}'."
    assert f"Skipped 3 images with existing captions. {quote}" in again.err
    for start in ("First: ", "Second: "):
        assert caption(*words, "-o", out, "--append", "--prefix", start).code == 0
    lines = [plain[0], f"First: {plain[0]}", f"Second: {plain[0]}"]
    assert read_caption(written[0]) == "\n".join(lines)
    assert caption(*words).code == 0  # next to the images, or in them
    targets = [photo.with_suffix(".xmp") if format_name == "xmp" else photo for photo in photos]
    assert [read_caption(path) for path in targets] == plain
    assert f"The caption of '{photos[0]}' is '{plain[0]}'. Use" in caption(*words).err
    assert [Image.open(photo).tobytes() for photo in photos] == pixels


@pytest.mark.parametrize("output", ["captions.jsonl", "captions.csv", None])
def test_outputs_of_the_command_are_no_skipped_files(output, caption, photos):
    folder = photos[0].parent
    (folder / "notes.md").touch()
    (folder / "bad.jpg").touch()
    words = ["--format", "txt"] if output is None else ["-o", folder / output]
    for _ in range(2):
        ran = caption(folder, *words)
        assert "Skipped 1 file, hidden or not an image: 1 .md." in ran.err
