"""Captions inside images: other readers find them, and nothing else in the image changes."""

import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from image_files import (
    XMP_HEADER,
    datasets,
    descriptions_in,
    encoded,
    exif_block,
    exif_description_of,
    image,
    iptc_of,
    pixels_of,
    resource,
    segment,
    segments_of,
    with_segments,
    xmp,
    xmp_of,
)
from PIL import Image, PngImagePlugin
from required_tools import require_tool

from captioning.bulk.writers.base import CaptionRow
from captioning.bulk.writers.embed import CaptionEmbedder
from captioning.bulk.writers.registry import open_writer
from captioning.errors import ConfigError, OutputError

pytestmark = require_tool("exiftool", shutil.which("exiftool") is not None)

CAPTION = 'a dog & a "cat" <jump>,\nit\'s größer 🐶 $x \\n #1'
PHOTOSHOP = b"Photoshop 3.0\0"
IPTC = datasets((2, 0, b"\0\2"), (2, 25, b"keyword"), (2, 116, b"(c) me"))
LATIN = datasets((2, 0, b"\0\2"), (2, 90, "Köln".encode("latin-1")), (2, 202, b"\xff\xfe\0"))
UTF8_UNMARKED = datasets((2, 0, b"\0\2"), (2, 90, "Köln".encode()))
JPEG = encoded("JPEG", comment=b"a comment")
EXIF = exif_block()[0]
RAW_IPTC = f"\niptc\n{len(resource(0x0404, IPTC)):8}\n{resource(0x0404, IPTC).hex()}\n"
CAMERA = Image.Exif()
CAMERA.update({0x010F: "ACME", 0x0112: 6})
RAW_EXIF = f"\nexif\n{len(CAMERA.tobytes()):8}\n{CAMERA.tobytes().hex()}\n"


def jpeg(*resources, packet=None):
    return with_segments(
        encoded("JPEG"),
        *([segment(0xE1, XMP_HEADER + packet)] if packet else []),
        segment(0xED, PHOTOSHOP + b"".join(resources)),
    )


def png(**texts):
    info = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        info.add_text(key.replace("_", " "), text, zip=True)
    return encoded("PNG", pnginfo=info)


def saved(format_, **options):
    file = io.BytesIO()
    image().save(file, format_, **options)
    return file.getvalue()


IMAGES = {
    "plain.jpg": JPEG,
    "rich.jpg": with_segments(
        JPEG,
        segment(0xE1, b"Exif\0\0" + EXIF),
        segment(0xE1, XMP_HEADER + xmp()),
        segment(0xED, PHOTOSHOP + resource(0x03ED, b"\1" * 16) + resource(0x0404, IPTC)),
    ),
    "progressive.jpg": encoded("JPEG", progressive=True),
    "cmyk.jpg": encoded("JPEG", "CMYK"),
    "trailer.jpg": JPEG + b"trailing \xff\xd8\xff bytes",
    "several.mpo": saved("MPO", save_all=True, append_images=[image(size=(16, 16))]),
    "xmp-of-64k.jpg": jpeg(packet=xmp().replace(b" " * 40, b" " * 64700)),
    "plain.png": encoded("PNG"),
    "png-named.jpg": encoded("PNG"),
    "old-text.png": png(Description="an old one", Author="me"),
    "raw-iptc.png": png(Raw_profile_type_iptc=RAW_IPTC),
    "raw-exif.png": png(Raw_profile_type_exif=RAW_EXIF),
    "pages.tif": saved("TIFF", save_all=True, append_images=[image("L")], compression="tiff_lzw"),
    "big-endian.tif": encoded("TIFF", "L", big_endian=True),
}


@pytest.fixture(scope="module")
def embedder():
    tool = CaptionEmbedder()
    yield tool
    tool.close()


@pytest.fixture
def make(tmp_path):
    def write(data, name="image.jpg"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize("name", IMAGES)
def test_embed_is_read_by_pillow_and_keeps_pixels(make, embedder, tmp_path, name):
    source, copy = make(IMAGES[name], name), tmp_path / "copies" / name
    embedder.embed(source, copy, CAPTION)
    assert source.read_bytes() == IMAGES[name]
    assert embedder.read_caption(copy) == CAPTION
    assert pixels_of(copy) == pixels_of(source)
    assert exif_description_of(copy) == CAPTION
    assert descriptions_in(xmp_of(copy))["x-default"] == CAPTION
    kind = IMAGES[name][:4]
    if kind != b"\x89PNG":
        assert iptc_of(copy)[2, 120] == CAPTION.encode()
        assert iptc_of(copy)[1, 90] == b"\x1b%G"
    else:
        with Image.open(copy) as opened:
            assert opened.text["Description"] == CAPTION
    if kind[:2] == b"\xff\xd8" and not name.endswith(".mpo"):
        assert segments_of(copy.read_bytes())[1] == segments_of(source.read_bytes())[1]


@pytest.mark.parametrize("name", ["rich.jpg", "old-text.png", "raw-exif.png", "raw-iptc.png"])
def test_embed_keeps_other_metadata(make, embedder, name):
    path = make(IMAGES[name], name)
    with Image.open(path) as opened:
        before = {tag: value for tag, value in opened.getexif().items() if tag != 0x8769}
    embedder.embed(path, path, "the first")
    embedder.embed(path, path, "the second")
    with Image.open(path) as opened:
        after = dict(opened.getexif())
        texts = getattr(opened, "text", {})
    assert before.items() <= after.items()
    if name == "rich.jpg":
        assert iptc_of(path)[2, 25] == b"keyword"
        assert "Ein Título".encode() in xmp_of(path)
    elif name == "raw-iptc.png":
        profile = bytes.fromhex("".join(texts["Raw profile type iptc"].split("\n")[3:]))
        assert b"keyword" in profile
        assert b"the second" in profile
    assert embedder.read_caption(path) == "the second"


def test_embed_keeps_translations_of_the_description(make, embedder):
    german = '<d:description><rdf:Alt><rdf:li xml:lang="de">alt</rdf:li></rdf:Alt></d:description>'
    path = make(jpeg(packet=xmp(german)))
    assert embedder.read_caption(path) == "alt"
    embedder.embed(path, path, "new")
    assert descriptions_in(xmp_of(path)) == {"x-default": "new", "de": "alt"}


@pytest.mark.parametrize("iptc", [LATIN, UTF8_UNMARKED, datasets((1, 90, b"\x1b.A")) + LATIN])
def test_embed_converts_iptc_to_utf8_if_needed(make, embedder, iptc):
    path = make(jpeg(resource(0x0404, iptc)))
    embedder.embed(path, path, "ASCII needs no conversion")
    assert iptc_of(path)[2, 90] in ("Köln".encode("latin-1"), "Köln".encode())
    embedder.embed(path, path, "größer")
    new = iptc_of(path)
    assert new[1, 90] == b"\x1b%G"
    assert new[2, 90] == "Köln".encode()
    assert new[2, 120] == "größer".encode()
    assert new.get((2, 202), b"\xff\xfe\0") == b"\xff\xfe\0"  # the bytes of a preview


def test_embed_ends_iptc_caption_at_2000_bytes(make, embedder):
    path = make(JPEG)
    embedder.embed(path, path, "ö" * 999 + "🐶🐶")
    assert iptc_of(path)[2, 120].decode() == "ö" * 999
    assert embedder.read_caption(path) == "ö" * 999 + "🐶🐶"


@pytest.mark.parametrize("valid", [True, False])
def test_embed_updates_only_a_valid_iptc_digest(make, embedder, valid):
    old = hashlib.md5(IPTC).digest() if valid else b"\1" * 16
    path = make(jpeg(resource(0x0404, IPTC), resource(0x0425, old)))
    embedder.embed(path, path, "plain")
    with Image.open(path) as opened:
        found = opened.info["photoshop"]
    assert found[0x0425] == (hashlib.md5(found[0x0404]).digest() if valid else old)


def test_caption_is_read_from_xmp_then_iptc_then_exif(make, embedder):
    exif = Image.Exif()
    exif[0x010E] = "in exif"
    iptc = segment(
        0xED,
        PHOTOSHOP + resource(0x0404, datasets((2, 120, "in iptc, größer".encode("latin-1")))),
    )
    packet = segment(0xE1, XMP_HEADER + xmp("<d:description>in xmp</d:description>"))
    base = encoded("JPEG", exif=exif.tobytes())
    parts = ([iptc, packet], [iptc], [])
    found = [embedder.read_caption(make(with_segments(base, *part))) for part in parts]
    assert found == ["in xmp", "in iptc, größer", "in exif"]


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("OLYMPUS DIGITAL CAMERA", None),
        (r"DCIM\100GOPRO\G1.JPG", None),
        ("Model 7", None),
        ("  ", None),
        ("a digital camera on a table", "a digital camera on a table"),
        ("2020", "2020"),
        ("true", "true"),
    ],
)
def test_text_of_a_camera_is_not_a_caption(make, embedder, text, caption):
    exif = Image.Exif()
    exif.update({0x010E: text, 0x0110: "Model 7"})
    path = make(encoded("JPEG", exif=exif.tobytes()))
    assert embedder.read_caption(path) == caption
    subprocess.run(["exiftool", "-q", f"-XMP-dc:Description={text}", path], check=True)
    assert embedder.read_caption(path) == caption


REFUSED = {
    "image.bmp": (encoded("BMP"), "Can't write BMP files"),
    "big.tif": (saved("TIFF", big_tiff=True), "BigTIFF"),
    "cut.png": (encoded("PNG")[:-20], "exiftool .* reports"),
    "empty.jpg": (b"", "exiftool .* reports"),
    "iptc.jpg": (
        jpeg(resource(0x0404, datasets((1, 90, b"\x1b%@"), (2, 25, b"\xe4")))),
        "unknown encoding",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unwritable_image_is_refused_and_unchanged(make, embedder, name):
    data, reason = REFUSED[name]
    path = make(data, name)
    with pytest.raises(OutputError, match=rf"cannot write .*{name}'.*{reason}.*--format xmp"):
        embedder.embed(path, path, "größer")
    assert path.read_bytes() == data
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "name", [b"a\n-all=\n.jpg", b"-all=.jpg", b"[a].jpg", b"\xff\xfe.jpg", b"#x|.jpg", b"a b"]
)
def test_file_names_never_become_exiftool_arguments(tmp_path, embedder, name):
    folder = os.fsencode(tmp_path) + b"/-o\n\xff folder"
    os.mkdir(folder)  # noqa: PTH102
    path = Path(os.fsdecode(folder + b"/" + name))
    path.write_bytes(IMAGES["rich.jpg"])
    embedder.embed(path, path, CAPTION)
    assert embedder.read_caption(path) == CAPTION
    assert iptc_of(path)[2, 25] == b"keyword"
    assert list(path.parent.iterdir()) == [path]


# --- the exiftool process ------------------------------------------------------------------------


def test_exiftool_that_dies_is_restarted(make):
    embedder = CaptionEmbedder()
    path = make(JPEG)
    for number in range(3):
        process = embedder._exiftool._tool._process
        timer = threading.Timer(0.004 * number, process.kill)
        timer.start()
        if number == 0:
            timer.join()
        embedder.embed(path, path, f"caption {number}")
        assert embedder.read_caption(path) == f"caption {number}"
    embedder.close()


def test_exiftool_that_hangs_fails_one_image(make):
    embedder = CaptionEmbedder(time_limit=0.5)
    path = make(JPEG)
    process = embedder._exiftool._tool._process
    process.send_signal(signal.SIGSTOP)
    start = time.monotonic()
    with pytest.raises(OutputError, match=r"did not finish within 0\.5 seconds"):
        embedder.embed(path, path, "a dog")
    assert time.monotonic() - start < 5
    assert path.read_bytes() == JPEG
    embedder._exiftool.time_limit = 60.0
    embedder.embed(path, path, "a dog")
    assert embedder.read_caption(path) == "a dog"
    embedder.close()


@pytest.mark.parametrize("missing", ["exiftool", "PyExifTool"])
def test_missing_exiftool_stops_with_advice(monkeypatch, missing):
    if missing == "exiftool":
        monkeypatch.setenv("PATH", "/nowhere")
    else:
        monkeypatch.setitem(sys.modules, "exiftool", None)
    with pytest.raises(ConfigError, match=rf"needs {missing}\. Install .*apt install .*brew .*pip"):
        open_writer("embed", None)


# --- the writer ----------------------------------------------------------------------------------


def test_embed_writer_finds_and_reads_existing_captions(make, tmp_path):
    path = make(JPEG)
    row = CaptionRow(str(path), path.name, ("a dog", "a cat"), (-1.0, None))
    with open_writer("embed", None) as writer:
        assert not writer.has_caption(str(path))
        assert writer.read_captions(str(path)) == []
        assert not writer.has_caption(str(tmp_path / "none.jpg"))
        writer.write(row)
        writer.write(CaptionRow(str(path), path.name, error="an image that failed"))
        assert writer.has_caption(str(path))
        assert writer.read_captions(str(path)) == ["a dog", "a cat"]
    with open_writer("embed", tmp_path / "copies") as writer:
        assert not writer.has_caption(str(path))
        (tmp_path / "copies" / path.name).touch()
        assert not writer.has_caption(str(path))
        writer.write(row)
        assert writer.has_caption(str(path))


def test_copy_never_replaces_its_image(make, tmp_path):
    path = make(JPEG)
    row = CaptionRow(str(path), path.name, ("a dog",), (-1.0,))
    with open_writer("embed", tmp_path) as writer:
        assert not writer.has_caption(str(path))
        assert "it is in the output folder" in writer.find_obstacle(str(path))
        with pytest.raises(OutputError, match="it is the image"):
            writer.write(row)
    assert path.read_bytes() == JPEG


@pytest.mark.parametrize("folder", [None, "copies"])
@pytest.mark.parametrize("keep_time", [True, False])
def test_keep_time_keeps_the_modification_time(make, tmp_path, folder, keep_time):
    path = make(JPEG)
    os.utime(path, (1e9, 1e9))
    with open_writer("embed", folder and tmp_path / folder, keep_time=keep_time) as writer:
        writer.write(CaptionRow(str(path), path.name, ("a dog",), (-1.0,)))
    written = tmp_path / folder / path.name if folder else path
    assert (written.stat().st_mtime == 1e9) == keep_time


def test_killed_run_never_damages_an_original(make):
    path = make(IMAGES["rich.jpg"])
    pixels = pixels_of(path)
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from captioning.bulk.writers.embed import CaptionEmbedder\n"
        "embedder, path = CaptionEmbedder(), Path(sys.argv[1])\n"
        "print('ready', flush=True)\n"
        "for number in range(1000):\n    embedder.embed(path, path, f'caption {number}')\n"
    )
    for delay in (0.05, 0.11, 0.17, 0.23):
        with subprocess.Popen(
            [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE
        ) as process:
            process.stdout.readline()
            time.sleep(delay)
            process.kill()
        assert pixels_of(path) == pixels
        assert iptc_of(path)[2, 25] == b"keyword"
