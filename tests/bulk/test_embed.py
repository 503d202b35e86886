"""Captions inside images: other readers find them, and nothing else in the image changes."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import image_kinds
import pytest
from extended_attributes import ACL, set_attribute
from image_files import (
    MAKER_NOTE,
    XMP_HEADER,
    datasets,
    descriptions_in,
    encoded,
    exif_description_of,
    iptc_of,
    pixels_of,
    resource,
    resource_of,
    segment,
    segments_of,
    with_segments,
    xmp,
    xmp_of,
)
from image_kinds import DATA, JPEG, KINDS, PHOTOSHOP, app1, extended_xmp, saved
from PIL import Image, IptcImagePlugin
from required_tools import require_tool

from captioning.bulk.writers.base import CaptionRow
from captioning.bulk.writers.embed import CaptionEmbedder
from captioning.bulk.writers.registry import open_writer
from captioning.errors import ConfigError, OutputError

pytestmark = [
    require_tool("exiftool", shutil.which("exiftool") is not None),
    pytest.mark.xdist_group("embed"),  # one process embeds into all kinds of files
]

CAPTION = 'a dog & a "cat" <jump>,\nit\'s größer 🐶 $x \\n #1'
IPTC = datasets((2, 0, b"\0\2"), (2, 25, b"keyword"), (2, 116, b"(c) me"))
LATIN = datasets((2, 0, b"\0\2"), (2, 90, "Köln".encode("latin-1")), (2, 202, b"\xff\xfe\0"))
UTF8_UNMARKED = datasets((2, 0, b"\0\2"), (2, 90, "Köln".encode()))
CAPTION_TAGS = (
    r"XMP-dc:Description|IFD0:ImageDescription|IPTC:Caption-Abstract|PNG:Description(-\w+)?"
)
COPIES = r"XMP-tiff:ImageDescription|XMP-acdsee:Notes|(XMP-exif|ExifIFD):UserComment|File:Comment"
OFFSETS = r".*:(\w+Offsets?|\w+Start|MediaData\w*|\w*IPTCDigest|GIFVersion)"
NEW = r"XMP-x:XMPToolkit|IPTC:(CodedCharacterSet|\w+RecordVersion)|File:ExifByteOrder"


def jpeg(*resources, packet=None):
    return with_segments(
        encoded("JPEG"),
        *([segment(0xE1, XMP_HEADER + packet)] if packet else []),
        segment(0xED, PHOTOSHOP + b"".join(resources)),
    )


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


def exiftool_report(folder):
    """Return what exiftool prints about the files of a folder: name to (tag, text) pairs."""
    command = ["exiftool", "-G1", "-a", "-s", "-u", "-sep", ", ", "-ext", "*", folder]
    printed = subprocess.run(command, check=True, capture_output=True).stdout.decode()
    reports = {}
    for part in printed.split("======== ")[1:]:
        path, *lines = part.splitlines()
        found = (re.match(r"\[(.*?)\]\s*(\S+)\s*: (.*)", line) for line in lines)
        reports[Path(path).name] = {
            (f"{match[1].replace('IPTC2', 'IPTC')}:{match[2]}", match[3])
            for match in found
            if match and match[1] not in ("System", "ExifTool", "Composite")
        }
    return reports


@pytest.fixture(scope="module")
def embedded(tmp_path_factory, embedder):
    """Return the folders before and after, and what exiftool reports about them."""
    before, after = (tmp_path_factory.mktemp(name) for name in ("before", "after"))
    for name, data in KINDS.items():
        (before / name).write_bytes(data)
        embedder.embed(before / name, after / name, CAPTION)
    return before, after, exiftool_report(before), exiftool_report(after)


@pytest.mark.parametrize("name", KINDS)
def test_embed_changes_the_caption_and_nothing_else(embedded, name):
    before, after, all_old, all_new = embedded
    old, new = all_old[name], all_new[name]
    copies = COPIES if name == "copies.jpg" else ""
    changed = f"{CAPTION_TAGS}|{copies}"
    if name == "xmp-over-64-kb.jpg":
        changed += "|XMP-xmpNote:HasExtendedXMP"
    kept = DATA.get(name, "").replace("\n", ".")
    captions = {text for tag, text in new if re.fullmatch(f"{CAPTION_TAGS}|{copies}", tag)} - {kept}
    assert captions == {CAPTION.replace("\n", ".")}
    assert not [tag for tag, _ in old - new if not re.fullmatch(f"{changed}|{OFFSETS}", tag)]
    assert not [tag for tag, _ in new - old if not re.fullmatch(f"{changed}|{OFFSETS}|{NEW}", tag)]
    assert pixels_of(after / name) == pixels_of(before / name)
    data, original = (after / name).read_bytes(), KINDS[name]
    assert (MAKER_NOTE in data) == (MAKER_NOTE in original)
    if original.startswith(b"\xff\xd8"):
        assert segments_of(data)[1] == segments_of(original)[1]
    with Image.open(before / name) as first, Image.open(after / name) as second:
        texts = " ".join(getattr(first, "text", {}))
        assert second.info.get("dpi") == first.info.get("dpi") or "dpi" not in first.info
        assert second.getexif().get(0x0112) == first.getexif().get(0x0112)
        assert second.info.get("icc_profile") == first.info.get("icc_profile")
        if second.format in ("JPEG", "MPO", "PNG", "TIFF") and not kept and "APP1" not in texts:
            assert exif_description_of(after / name) == CAPTION
            assert descriptions_in(xmp_of(after / name))["x-default"] == CAPTION
        if second.format == "PNG":
            assert second.text["Description"] == CAPTION


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
@pytest.mark.parametrize("name", ["rich.jpg", "iptc.tif"])
def test_embed_updates_only_a_valid_iptc_digest(make, embedder, name, valid):
    found = hashlib.md5(image_kinds.IPTC).digest()
    path = make(KINDS[name] if valid else KINDS[name].replace(found, b"\1" * 16), name)
    for caption in ("one", "größer"):
        embedder.embed(path, path, caption)
        iptc, digest = resource_of(path, 0x0404), resource_of(path, 0x0425)
        assert b"old" not in iptc
        assert digest == (hashlib.md5(iptc).digest() if valid else b"\1" * 16)


def test_embed_completes_the_iptc_of_a_tiff(make, embedder):
    iptc = image_kinds.LATIN + datasets((2, 90, b"Paris"))
    path = make(image_kinds.tiff(x8649=resource(0x0404, iptc)), "image.tif")
    embedder.embed(path, path, "größer")
    with Image.open(path) as opened:  # IPTC outside of the Photoshop resources is new
        found = IptcImagePlugin.getiptcinfo(opened)
    assert (found[2, 25], found[2, 90]) == ("Köln".encode(), b"Paris")
    assert found[2, 120] == "größer".encode()


@pytest.mark.parametrize("caption", ["größer", "a dog 🐶"])
def test_embed_replaces_or_removes_the_comment_of_windows(make, embedder, caption):
    path = make(JPEG)
    write = ["exiftool", "-q", "-overwrite_original", "-XPComment=old", "-ImageDescription=old"]
    subprocess.run([*write, path], check=True)
    embedder.embed(path, path, caption)
    with Image.open(path) as opened:
        comment = opened.getexif().get(0x9C9C, b"").decode("utf-16-le").rstrip("\0")
    assert comment == ("" if "🐶" in caption else caption)


@pytest.mark.parametrize("size", [65_380, 65_470])
def test_embed_never_splits_exif_into_two_segments(make, embedder, size):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x927C] = bytes(size)
    data = encoded("JPEG", exif=exif.tobytes())
    path = make(data)
    if size == 65_380:
        embedder.embed(path, path, "a dog")
        assert sum(part[:4] == b"Exif" for _, part in segments_of(path.read_bytes())[0]) == 1
    else:
        with pytest.raises(OutputError, match=r"EXIF is too large.*--format xmp"):
            embedder.embed(path, path, "a dog")
        assert path.read_bytes() == data


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
    copy = xmp("<t:ImageDescription xmlns:t='http://ns.adobe.com/tiff/1.0/'>x</t:ImageDescription>")
    assert embedder.read_caption(make(with_segments(JPEG, app1(copy)))) == "x"


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


EXTENDED = list(extended_xmp())
NOTE = "<n:HasExtendedXMP xmlns:n='http://ns.adobe.com/xmp/note/'>{}</n:HasExtendedXMP>"
ODD_XMP = xmp(NOTE.format(re.search(rb'XMP="(\w+)"', EXTENDED[0])[1].decode()))
REFUSED = {
    "image.bmp": (encoded("BMP"), "Can't write BMP files"),
    "image.ppm": (encoded("PPM"), "cannot write XMP into files of type PPM"),
    "big.tif": (saved("TIFF", big_tiff=True), "BigTIFF"),
    "lost.jpg": (
        with_segments(JPEG, app1(ODD_XMP), *EXTENDED[1:]),
        "would lose XMP-dc:Subject",
    ),
    "cut.png": (encoded("PNG")[:-20], "exiftool .* reports"),
    "empty.jpg": (b"", "exiftool .* reports"),
    "iptc.jpg": (
        jpeg(resource(0x0404, datasets((1, 90, b"\x1b%@"), (2, 25, b"\xe4")))),
        "unknown encoding",
    ),
    "mac-iptc.jpg": (jpeg(resource(0x0404, datasets((2, 25, b"fa\x8dade")))), "unknown encoding"),
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
    path.write_bytes(KINDS["rich.jpg"])
    embedder.embed(path, path, CAPTION)
    assert embedder.read_caption(path) == CAPTION
    assert iptc_of(path)[2, 25] == b"keyword"
    assert list(path.parent.iterdir()) == [path]


# --- the exiftool process ------------------------------------------------------------------------


def test_exiftool_that_dies_is_restarted(make):
    embedder = CaptionEmbedder()
    path = make(JPEG)
    for number in range(3):
        process = embedder._exiftool._process
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
    process = embedder._exiftool._process
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


def test_missing_exiftool_stops_with_advice(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match=r"needs exiftool\. Install .*apt install .*brew .*xmp"):
        open_writer("embed", None)


def test_broken_exiftool_stops_with_its_reason(monkeypatch, tmp_path):
    (tmp_path / "exiftool").write_text("#!/bin/sh\necho no Perl here >&2\n")
    (tmp_path / "exiftool").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ConfigError, match=r"does not start: no Perl here\. Install it"):
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


def embed_as(user, path):
    """Embed a caption into a file in place, as a user, in a process of its own."""
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            if os.geteuid() != user:
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)
            os.chdir("/")  # the present folder may be private
            CaptionEmbedder(keep_time=True).embed(path, path, "a dog")
            os._exit(0)
        os._exit(1)
    return os.waitpid(child, 0)[1]


NOBODY = pytest.param(65534, marks=pytest.mark.skipif(os.geteuid() != 0, reason="needs root"))


@pytest.mark.parametrize("user", [os.geteuid(), NOBODY])
def test_embed_in_place_keeps_all_but_the_content(embedder, user):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.jpg"
        path.write_bytes(JPEG)
        path.parent.chmod(0o777)
        path.chmod(0o640)
        set_attribute(path, "user.xdg.tags", b"family")
        set_attribute(path, "system.posix_acl_access", ACL)
        if os.geteuid() == 0:
            os.chown(path, 65534, 65534)
        os.utime(path, (1e9, 1e9))
        before = path.stat()
        assert embed_as(user, path) == 0
        after = path.stat()
        assert embedder.read_caption(path) == "a dog"
        assert os.getxattr(path, "user.xdg.tags") == b"family"
        assert os.getxattr(path, "system.posix_acl_access") == ACL
        kept = ("st_uid", "st_gid", "st_mode", "st_mtime_ns", "st_nlink")
        assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]


def test_killed_run_never_damages_an_original(make):
    path = make(KINDS["rich.jpg"])
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
