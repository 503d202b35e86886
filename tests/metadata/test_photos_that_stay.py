"""A photo is written whole or not at all: what cannot be written is refused and stays as it was."""

import os
import random
import re
import stat
from contextlib import suppress

import pytest
from made_photos import (
    XMP_HEADER,
    datasets,
    encoded,
    exif_block,
    pixels_of,
    resource,
    segment,
    with_segments,
    xmp,
)
from PIL import Image

from captioning.errors import OutputError
from captioning.metadata import embed_caption, read_caption, write_xmp_sidecar

EXIF = b"Exif\0\0" + exif_block()[0]
JPEG = encoded("JPEG")


def photoshop(*resources):
    return segment(0xED, b"Photoshop 3.0\0" + b"".join(resources))


RICH = {
    "photo.jpg": with_segments(
        JPEG,
        segment(0xE1, EXIF),
        segment(0xE1, XMP_HEADER + xmp()),
        photoshop(resource(0x0404, datasets((2, 0, b"\0\2"), (2, 25, b"keyword")))),
    ),
    "photo.mpo": encoded("MPO", save_all=True, append_images=[Image.new("L", (8, 8))]),
    "photo.png": encoded("PNG", exif=EXIF[6:]),
    "photo.webp": encoded("WEBP", exif=EXIF[6:], xmp=xmp()),
    "simple.webp": encoded("WEBP", lossless=True),
    "photo.tif": encoded("TIFF", description="old", compression="tiff_lzw"),
}
UNKNOWN = datasets((1, 90, b"\x1b%@"), (2, 25, b"\xe4"))
REFUSED = {
    "image.gif": (encoded("GIF"), "no JPEG, PNG, WebP or TIFF"),
    "photo.heic": (b"\0\0\0\x18ftypheic" + b"\0" * 40, "no JPEG, PNG, WebP or TIFF"),
    "raw.dng": (encoded("TIFF"), "no JPEG, PNG, WebP or TIFF"),
    "empty.jpg": (b"", "no JPEG, PNG, WebP or TIFF"),
    "cut.jpg": (JPEG[:-200], "the image has no end"),
    "cut-early.jpg": (JPEG[:200], "damaged"),
    "cut.png": (encoded("PNG")[:-20], "not whole"),
    "flipped.png": (encoded("PNG").replace(b"IDAT", b"IDAU"), "not whole"),
    "cut.webp": (encoded("WEBP")[:-20], "ends behind the file"),
    "cut.tif": (encoded("TIFF")[:9], "broken"),
    "broken-xmp.jpg": (
        with_segments(JPEG, segment(0xE1, XMP_HEADER + b"<a>")),
        "XMP packet is broken",
    ),
    "full-xmp.jpg": (
        with_segments(JPEG, segment(0xE1, XMP_HEADER + xmp(f"<!--{'x' * 64750}-->"))),
        "a JPEG's segment ends",
    ),
    "full-exif.jpg": (
        with_segments(JPEG, segment(0xE1, EXIF + b"\0" * (65500 - len(EXIF)))),
        "a JPEG's segment ends",
    ),
    "broken-exif.jpg": (
        with_segments(JPEG, segment(0xE1, EXIF[:30])),
        "EXIF or TIFF block is broken",
    ),
    "no-exif.jpg": (with_segments(JPEG, segment(0xE1, b"Exif\0\0nonsense")), "it begins with"),
    "two-exif.jpg": (with_segments(JPEG, *[segment(0xE1, EXIF)] * 2), "EXIF stands in 2 segments"),
    "broken-iptc.jpg": (
        with_segments(JPEG, photoshop(resource(0x0404, b"\x1c\2\x19\0\x40cut"))),
        "IPTC is broken",
    ),
    "no-iptc.jpg": (
        with_segments(JPEG, photoshop(resource(0x0404, b"nonsense"))),
        "no dataset begins",
    ),
    "foreign-iptc.jpg": (
        with_segments(JPEG, photoshop(resource(0x0404, UNKNOWN))),
        "encoding that is not known",
    ),
    "broken-irb.jpg": (
        with_segments(JPEG, photoshop(b"8BIM\4\4")),
        "Photoshop resources are broken",
    ),
    "broken-mpf.jpg": (with_segments(JPEG, segment(0xE2, b"MPF\0" + EXIF[6:])), "MPF"),
    "afcp.jpg": (JPEG + b"AXS!" + b"\0" * 8, "AFCP"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_hold_a_caption_is_refused_with_advice_and_kept(tmp_path, name):
    data, complaint = REFUSED[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(OutputError, match=rf"{name}.*{complaint}.*\.xmp sidecar"):
        embed_caption(path, path, "a dog, größer")
    assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("caption", ["", " \n", "\0\x1b"])
def test_a_caption_without_text_is_refused(tmp_path, caption):
    path = tmp_path / "photo.jpg"
    path.write_bytes(JPEG)
    with pytest.raises(OutputError, match=re.escape(repr(caption)) + " has no text"):
        embed_caption(path, path, caption)
    with pytest.raises(OutputError, match="has no text"):
        write_xmp_sidecar(tmp_path / "photo.xmp", caption)
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_file_is_refused(tmp_path):
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(JPEG)
    os.mkfifo(tmp_path / "pipe")
    for wrong, complaint in (("nowhere.jpg", "cannot be read"), ("", "folder"), ("pipe", "device")):
        with pytest.raises(OutputError, match=complaint):
            embed_caption(tmp_path / wrong, tmp_path / "copy.jpg", "a dog")
        with pytest.raises(OutputError, match=complaint):
            read_caption(tmp_path / wrong)
    for wrong, complaint in (
        ("", "folder"),
        ("pipe", "device"),
        ("photo.jpg/x", "cannot be written"),
    ):
        with pytest.raises(OutputError, match=complaint):
            embed_caption(photo, tmp_path / wrong, "a dog")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.jpg", "pipe"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, step):
    path = tmp_path / "photo.jpg"
    path.write_bytes(JPEG)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OutputError, match=r"photo\.jpg cannot be written .*No space left"):
        embed_caption(path, path, "a dog")
    assert path.read_bytes() == JPEG
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_are_kept(tmp_path):
    photo, copy = tmp_path / "photo.jpg", tmp_path / "new folder" / "copy.jpg"
    photo.write_bytes(JPEG)
    photo.chmod(0o640)
    embed_caption(photo, photo, "a dog")
    embed_caption(photo, copy, "a dog")
    assert stat.S_IMODE(photo.stat().st_mode) == 0o640
    assert stat.S_IMODE(copy.stat().st_mode) == 0o640
    copy.chmod(0o604)
    embed_caption(photo, copy, "a cat")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o604


def test_the_file_behind_a_link_is_replaced(tmp_path):
    (tmp_path / "album").mkdir()
    photo, link = tmp_path / "photo.jpg", tmp_path / "album" / "link.jpg"
    photo.write_bytes(JPEG)
    link.symlink_to(photo)
    embed_caption(link, link, "a dog")
    assert link.is_symlink()
    assert read_caption(photo) == "a dog"


def pixels_if_any(path):
    """Return what Pillow makes of a damaged photo, or None where it refuses it in its many ways."""
    try:
        return pixels_of(path)
    except Exception:
        return None


@pytest.mark.parametrize("name", RICH)
def test_damage_anywhere_ends_in_an_output_error_or_a_sound_copy(tmp_path, name):
    rng = random.Random(0)
    photo, copy = tmp_path / name, tmp_path / f"copy-{name}"
    outcomes = set()
    for turn in range(150):
        data = bytearray(RICH[name])
        head = len(data) if turn % 3 else min(len(data), 600)
        for _ in range(rng.choice((1, 1, 1, 4))):
            data[rng.randrange(head)] = rng.choice((0, 0xFF, rng.randrange(256)))
        if turn % 5 == 0:
            del data[rng.randrange(len(data)) :]
        photo.write_bytes(data)
        with suppress(OutputError):
            read_caption(photo)
        try:
            embed_caption(photo, copy, "a dog, größer")
        except OutputError:
            outcomes.add("refused")
        else:
            assert read_caption(copy) == "a dog, größer"
            outcomes.add("written")
            if (pixels := pixels_if_any(photo)) is not None:
                assert pixels_of(copy) == pixels
        assert photo.read_bytes() == data
    assert outcomes == {"refused", "written"}
