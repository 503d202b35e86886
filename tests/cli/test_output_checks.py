"""``captioning caption``: what makes every output fail is found before the first image is read."""

import re
import sys
from pathlib import Path

import pytest
from small_captioner import write_photos

from captioning.images import worker

pytestmark = pytest.mark.usefixtures("nothing_decoded")


@pytest.fixture
def nothing_decoded(monkeypatch, request):
    """Fail the test if an image is decoded or a model is loaded."""
    if "decoded" in request.fixturenames:
        return
    from captioning.inference.captioner import Captioner

    def refuse(*_, **__):
        pytest.fail("the fault was found too late")

    monkeypatch.setattr(Captioner, "from_pretrained", refuse)
    monkeypatch.setattr(worker, "read_image", refuse)


@pytest.fixture
def read_only(unprivileged, tmp_path):
    """A folder with two images in which no file can be created."""
    folder = tmp_path / "read only"
    write_photos(folder, 2)
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


@pytest.mark.parametrize("format_name", ["txt", "caption", "xmp", "embed"])
def test_read_only_folder_of_images_ends_the_run(format_name, caption, read_only):
    ran = caption(read_only, "--format", format_name)
    assert ran.code == 1
    assert ran.err.startswith("captioning: no caption can be written: cannot write ")
    assert ran.err.endswith("Permission denied. Use another folder: -o FOLDER.\n")
    assert len(ran.err.splitlines()) == 1


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "deep/rows.html", "rows.parquet"])
def test_output_file_in_read_only_folder_is_refused(name, caption, photos, read_only):
    ran = caption(*photos, "-o", read_only / name)
    assert ran.code == 1
    assert ran.err.startswith(f"captioning: cannot write '{read_only / name}': Permission denied.")


@pytest.mark.parametrize("format_name", ["txt", "embed"])
def test_output_folder_in_read_only_folder_is_refused(format_name, caption, photos, read_only):
    ran = caption(*photos, "--format", format_name, "-o", read_only / "new")
    assert ran.code == 1
    assert f"cannot write into '{read_only / 'new'}': Permission denied." in ran.err


def test_only_images_of_read_only_folders_fail(caption, photos, read_only, decoded):
    ran = caption(read_only, *photos, "--format", "txt")
    assert ran.code == 1
    assert "2 of 5 images could not be captioned" in ran.err
    assert f"cannot write '{read_only / 'photo1.txt'}': Permission denied." in ran.err
    assert [Path(source) for source in decoded] == photos
    assert all(photo.with_suffix(".txt").read_text() for photo in photos)


def test_kept_captions_in_read_only_folder_are_no_error(caption, read_only, decoded):
    read_only.chmod(0o755)
    assert caption(read_only, "--format", "txt").code == 0
    read_only.chmod(0o555)
    del decoded[:]
    ran = caption(read_only, "--format", "txt")
    assert (ran.code, decoded) == (0, [])
    assert "Skipped 2 images with existing captions" in ran.err


def test_embed_into_protected_files_ends_the_run(caption, photos, unprivileged):
    for photo in photos:
        photo.chmod(0o444)
    ran = caption(*photos, "--format", "embed")
    assert ran.code == 1
    assert f"cannot write the caption into '{photos[0]}': it is write-protected" in ran.err


@pytest.mark.parametrize("name", ["rows.jsonl", ".rows.jsonl.journal"])
def test_protected_output_or_journal_is_refused(name, caption, photos, tmp_path, unprivileged):
    (tmp_path / name).write_text("")
    (tmp_path / name).chmod(0o444)
    ran = caption(*photos, "-o", tmp_path / "rows.jsonl", "--overwrite")
    assert ran.code == 1
    assert ran.err == (
        f"captioning: cannot write '{tmp_path / name}': it is write-protected. Use another output "
        "path.\n"
    )


@pytest.mark.parametrize("name", ["file/rows.jsonl", f"{'x' * 250}.jsonl", f"{'x' * 240}.jsonl"])
def test_impossible_output_path_is_refused(name, caption, photos, tmp_path):
    (tmp_path / "file").touch()
    ran = caption(*photos, "-o", tmp_path / name)
    assert ran.code == 1
    assert "is not a folder" in ran.err if "/" in name else "File name too long" in ran.err


def test_full_disk_is_found_by_writing(caption, photos, tmp_path, monkeypatch):
    class FullDisk:
        def __init__(self, **_):
            self.file = open("/dev/full", "wb", buffering=0)  # noqa: PTH123, SIM115

        def __enter__(self):
            return self.file

        def __exit__(self, *_):
            self.file.close()

    monkeypatch.setattr("captioning.files.tempfile.TemporaryFile", FullDisk)
    for words in (["-o", tmp_path / "rows.csv"], ["--format", "txt", "-o", tmp_path / "texts"]):
        ran = caption(*photos, *words)
        assert ran.code == 1
        assert "No space left on device" in ran.err


def test_html_thumbnails_that_have_no_place_are_refused(caption, photos, tmp_path):
    (tmp_path / "page_files").touch()
    ran = caption(*photos, "-o", tmp_path / "page.html")
    assert ran.code == 1
    assert f"cannot write into '{tmp_path / 'page_files'}'" in ran.err


def test_parquet_without_pyarrow_is_refused(caption, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    ran = caption(*photos, "-o", tmp_path / "rows.parquet")
    assert ran.code == 2
    assert "the Parquet format needs pyarrow" in ran.err


def test_output_that_is_the_list_of_images_is_refused(caption, photos, tmp_path, monkeypatch):
    names = tmp_path / "names.jsonl"
    names.write_text(f"{photos[0]}\n")
    with names.open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        ran = caption("-", "-o", names, "--overwrite")
    assert ran.code == 2
    assert ran.err == f"captioning: -o {names} is also an input. Use another -o.\n"
    assert names.read_text() == f"{photos[0]}\n"


def test_embed_into_the_folder_of_the_images_is_refused(caption, photos):
    folder = photos[0].parent
    ran = caption(folder, "--format", "embed", "-o", folder)
    assert ran.code == 2
    assert "is also an input. Leave -o out to write into the images." in ran.err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["-o", "captions.txt"], "named like a file, but --format txt writes one file per image"),
        (["-o", "captions.txt"], "into one file, use -o captions.jsonl without --format"),
        (["-o", "rows.csv", "--format", "xmp"], "but --format xmp writes one file per image"),
        (["-o", "rows.csv", "--format", "xmp"], "into one file, use -o rows.csv without --format"),
        (["-o", "FOLDER"], "is a folder. Use a file, such as .*captions.jsonl, or a --format"),
    ],
)
def test_output_of_the_wrong_kind_is_refused(words, reason, caption, photos):
    ran = caption(*photos, *[photos[0].parent if word == "FOLDER" else word for word in words])
    assert ran.code == 2
    assert re.search(reason, ran.err)
