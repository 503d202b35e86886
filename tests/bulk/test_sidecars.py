"""Text and .xmp files of images: their content, and what is never replaced."""

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from extended_attributes import set_attribute
from image_files import xmp
from required_tools import require_tool

from captioning.bulk.writers.base import CaptionRow
from captioning.bulk.writers.registry import open_writer
from captioning.errors import OutputError

FORMATS = ["txt", "caption", "xmp"]


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.jpg"
    path.touch()
    return str(path)


@pytest.fixture(params=FORMATS)
def sidecar(request, tmp_path):
    return tmp_path / f"a.{request.param}"


def write(sidecar, image, *captions):
    with open_writer(sidecar.suffix[1:], None) as writer:
        writer.write(CaptionRow(image, "a.jpg", captions, (-1.0,) * len(captions)))


def read(sidecar, image):
    with open_writer(sidecar.suffix[1:], None) as writer:
        assert writer.has_caption(image) == bool(writer.read_captions(image))
        return writer.read_captions(image)


def obstacle_of(sidecar, image):
    with open_writer(sidecar.suffix[1:], None) as writer:
        return writer.find_obstacle(image)


def test_output_folder_that_cannot_be_created_is_refused(image):
    with pytest.raises(OutputError, match=r"cannot write into .* is not a folder"):
        open_writer("txt", Path(image))


def test_sidecar_is_written_read_and_replaced(sidecar, image):
    assert read(sidecar, image) == []
    with open_writer(sidecar.suffix[1:], None) as writer:
        writer.write(CaptionRow(image, "a.jpg", error="an image that failed"))
    assert not sidecar.exists()
    for captions in (["a dog", "a cat"], ["a bird"]):
        write(sidecar, image, *captions)
        assert read(sidecar, image) == captions
        assert obstacle_of(sidecar, image) == ""


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" \t\r\n",
        b"\n\n\n",
        b"\xef\xbb\xbf",
        b"\xef\xbb\xbf\r\n",
        "\ufeff \n".encode("utf-16-be"),
        "\n".encode("utf-16"),
        bytes(512),
        b"\xff\xfe",
    ],
)
def test_blank_sidecar_counts_as_none(sidecar, image, content):
    sidecar.write_bytes(content)
    assert read(sidecar, image) == []
    assert obstacle_of(sidecar, image) == ""
    write(sidecar, image, "a dog")
    assert read(sidecar, image) == ["a dog"]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("folder", "it is a folder"),
        ("pipe", "it is a pipe or a device"),
        ("link to nothing", "it is a link to 'none', which does not exist"),
        ("link to a folder", "it is a folder"),
        ("loop", "Too many levels of symbolic links"),
    ],
)
def test_sidecar_that_is_not_a_file_is_an_error(sidecar, image, kind, reason, tmp_path):
    makers = {
        "folder": sidecar.mkdir,
        "pipe": lambda: os.mkfifo(sidecar),
        "link to nothing": lambda: sidecar.symlink_to("none"),
        "link to a folder": lambda: sidecar.symlink_to(tmp_path),
        "loop": lambda: sidecar.symlink_to(sidecar),
    }
    makers[kind]()
    before = sorted(tmp_path.iterdir())
    with open_writer(sidecar.suffix[1:], None) as writer:
        assert not writer.has_caption(image)
    reason = f"cannot write '{sidecar}': {reason}."
    assert obstacle_of(sidecar, image).startswith(reason)
    for call in (lambda: write(sidecar, image, "a dog"), lambda: read(sidecar, image)):
        with pytest.raises(OutputError, match=reason):
            call()
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("content", [b"\0binary", b"x\0", b"x" * (1 << 20) + b"x", b"\xff\xfex"])
def test_caption_file_that_is_not_text_is_unchanged(tmp_path, image, content):
    sidecar = tmp_path / "a.txt"
    sidecar.write_bytes(content)
    reason = "(is not a text file|the limit is|is not UTF-16 text).* -o FOLDER"
    with pytest.raises(OutputError, match=reason):
        write(sidecar, image, "a dog")
    assert obstacle_of(sidecar, image).startswith(f"cannot write '{sidecar}': it ")
    assert sidecar.read_bytes() == content


@pytest.mark.parametrize("content", [b"not xmp", xmp()[:300], b"<a/>", b"x" * ((1 << 24) + 1)])
def test_damaged_xmp_is_unchanged(tmp_path, image, content):
    sidecar = tmp_path / "a.xmp"
    sidecar.write_bytes(content)
    reason = "damaged.* Repair|no rdf:RDF.* Repair|the limit is"
    with pytest.raises(OutputError, match=reason):
        write(sidecar, image, "a dog")
    assert obstacle_of(sidecar, image).startswith(f"cannot write '{sidecar}': it")
    assert sidecar.read_bytes() == content


@pytest.mark.parametrize(
    ("content", "captions"),
    [
        ("größer\r\nzwei\r\n".encode(), ["größer", "zwei"]),
        (b"\xef\xbb\xbfone\rtwo", ["one", "two"]),
        ("größer\nzwei".encode("utf-16"), ["größer", "zwei"]),
        ("犬\n猫\n".encode("shift-jis"), [b"\x8c\xa2", b"\x94L"]),
        ("one\u2028line\n\ntwo\n".encode(), ["one\u2028line", "", "two"]),
    ],
)
def test_text_of_any_encoding_is_read_and_appended_to(tmp_path, image, content, captions):
    sidecar = tmp_path / "a.txt"
    sidecar.write_bytes(content)
    old = read(sidecar, image)
    assert old == [c if isinstance(c, str) else os.fsdecode(c) for c in captions]
    write(sidecar, image, *old, "a dog")
    assert sidecar.read_bytes().split(b"\n") == [*map(os.fsencode, captions), b"a dog", b""]


def test_half_of_a_surrogate_pair_is_escaped(tmp_path, image):
    write(tmp_path / "a.txt", image, "a \ud83d dog")
    assert (tmp_path / "a.txt").read_text() == "a \\ud83d dog\n"


def test_replaced_sidecar_keeps_owner_permissions_and_link(sidecar, image, tmp_path):
    target = tmp_path / "elsewhere" / "target"
    target.parent.mkdir()
    target.touch(0o640)
    sidecar.symlink_to(target)
    if os.geteuid() == 0:
        os.chown(target, 65534, 65533)
    owner = target.stat().st_uid, target.stat().st_gid
    set_attribute(target, "user.rating", b"5")
    write(sidecar, image, "a dog")
    assert sidecar.is_symlink()
    assert (target.stat().st_uid, target.stat().st_gid) == owner
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert os.getxattr(target, "user.rating") == b"5"
    assert read(sidecar, image) == ["a dog"]


def test_sidecar_with_several_names_is_refused(sidecar, image, tmp_path):
    sidecar.write_bytes(xmp() if sidecar.suffix == ".xmp" else b"mine\n")
    (tmp_path / "other").hardlink_to(sidecar)
    assert "2 hard links" in obstacle_of(sidecar, image)
    with pytest.raises(OutputError, match="2 hard links"):
        write(sidecar, image, "a dog")


@pytest.mark.parametrize("umask", [0o077, 0o002])
def test_new_sidecar_has_the_permissions_of_the_umask(sidecar, image, umask):
    before = os.umask(umask)
    try:
        write(sidecar, image, "a dog")
    finally:
        os.umask(before)
    assert stat.S_IMODE(sidecar.stat().st_mode) == 0o666 & ~umask


@require_tool("exiftool", bool(shutil.which("exiftool")))
@pytest.mark.parametrize("name", ["a.xmp", "a.jpg.xmp", "A.XMP"])
def test_updated_xmp_keeps_the_properties_of_other_programs(image, tmp_path, name):
    sidecar = tmp_path / name
    tags = ["XMP:Rating=4", "XMP-digiKam:TagsList=Places/Lake", "XMP-acdsee:Notes=a note"]
    tags += ["XMP-dc:Description=old", "XMP-dc:Description-de=alt", "XMP-photoshop:City=Köln"]
    subprocess.run(
        ["exiftool", "-q", *(f"-{tag}" for tag in tags), tmp_path / "new.xmp"], check=True
    )
    (tmp_path / "new.xmp").rename(sidecar)
    before, bytes_before = read_tags(sidecar), sidecar.read_bytes()
    write(tmp_path / "a.xmp", image, "a dog")
    assert read_tags(sidecar) == {**before, "XMP-dc:Description": "a dog"}
    start, end = bytes_before.split(b"<dc:description>")
    assert sidecar.read_bytes().startswith(start)
    assert sidecar.read_bytes().endswith(end.partition(b"</dc:description>")[2])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a.jpg", name])


def read_tags(path):
    command = ["exiftool", "-j", "-a", "-G1", "-XMP:all", path]
    (tags,) = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return tags
