"""Reading any image file: error messages, limits, damaged files, and sources."""

import io
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioning.errors import ImageError
from captioning.images.decode import read_image

RED, GREEN = (200, 30, 40), (20, 180, 60)


def pattern(height=24, width=36):
    """Return pixels that differ in each of the eight orientations."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 10, columns * 7, (rows * columns) % 251], 2).astype(np.uint8)


def photo(form="JPEG", size=(320, 240), **options):
    noise = np.random.default_rng(0).integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
    image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    return saved(image, form, **options)


def saved(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png(width, height, depth=8, color=2, data=b""):
    """Return a PNG whose header may state values that Pillow does not write."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def scanless_jpeg():
    """Return a progressive JPEG that ends where its first scan starts."""
    whole = photo("JPEG", progressive=True)
    return whole[: whole.index(b"\xff\xda") + 14]


# --- unreadable files ----------------------------------------------------------------------------

UNREADABLE = {
    "empty": (b"", r"cannot read .*: file is empty \(0 bytes\)\. Download it again\."),
    "zeros": (b"\0" * 5000, "file starts with zeros only"),
    "text": (b"not an image at all\n", r"file contains text \('not an image at all"),
    "list": (b"a.jpg\nb.jpg\n", r"To caption a list of image paths: captioning caption - < "),
    "utf-16 text": ("Fotos\\ä.jpg\r\n".encode("utf-16"), r"file contains text \('Fotos"),
    "latin-1 text": ("Fotos/ä.jpg".encode("latin-1"), r"file contains text \('Fotos/ä.jpg'\)"),
    "html": (b"<!doctype html><p>404", "file is a web page"),
    "xhtml": (b"<?xml version='1.0'?>\n<html lang='en'>", "file is a web page"),
    "json": (b'{"message": "Not Found"}', "file contains JSON .*Not Found.*, not an image. Check"),
    "xml": (b"<Error><Code>AccessDenied</Code>", "file contains XML .*AccessDenied"),
    "header only": (photo("PNG")[:8], "cannot read"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "file is an SVG drawing"),
    "svg with prolog": (b"<?xml version='1.0'?>\n<!-- x -->\n<svg width='9'>", "an SVG drawing"),
    "Canon CR2": (b"II*\0\x10\0\0\0CR\2\0" + bytes(99), "camera raw image. Export it as JPEG"),
    "Canon CR3": (b"\0\0\0\x18ftypcrx \0\0\0\1", "file is a camera raw image"),
    "Fujifilm RAF": (b"FUJIFILMCCD-RAW 0201", "file is a camera raw image"),
    "Olympus ORF": (b"IIRO\x08\0\0\0", "file is a camera raw image"),
    "Panasonic RW2": (b"IIU\0\x18\0\0\0", "file is a camera raw image"),
    "JPEG XL": (b"\xff\x0a\xfa\x1f\x41\x91", "JPEG XL .*: pip install pillow-jxl-plugin"),
    "JPEG XL container": (b"\0\0\0\x0cJXL \r\n\x87\n", "file is a JPEG XL image. Install"),
    "HEIC": (b"\0\0\0\x1cftypheic\0\0\0\0", "a HEIC image.*: pip install pillow-heif"),
    "AppleDouble": (b"\0\5\x16\7\0\2\0\0Mac OS X", "macOS metadata of another file"),
    "AppleSingle": (b"\0\5\x16\0\0\2\0\0", "macOS metadata of another file"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "Run: git lfs pull"),
    "git-annex": (b"/annex/objects/SHA256E-s9--1.jpg\n", "Run: git annex get"),
    "iCloud": (b"bplist00\xd4", "iCloud placeholder"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "PDF document. Export its pages as images"),
    "Photoshop": (b"8BPS\0\2" + bytes(20), "project of an image editor"),
    "GIMP": (b"gimp xcf v011\0", "project of an image editor"),
    "EXR": (b"v/1\1\2\0\0\0", "scientific or HDR image"),
    "DICOM": (bytes(127) + b"\1DICM", "scientific or HDR image"),
    "MP4": (b"\0\0\0\x18ftypmp42", "file is a video. Export a frame"),
    "old QuickTime": (b"\0\0\x0f\x17moov\0\0\0l", "file is a video"),
    "AVI": (b"RIFF\xb6;*\0AVI LIST", "file is a video"),
    "Matroska": (b"\x1aE\xdf\xa3\x93B\x82\x88", "file is a video"),
    "MPEG TS": (b"G@\0\x10\0\0\xb0", "file is a video"),
    "MP3": (b"ID3\3\0", "file is an audio file"),
    "M4A": (b"\0\0\0 ftypM4A ", "file is an audio file"),
    "WAV": (b"RIFF\xc8\0\0\0WAVEfmt ", "file is an audio file"),
    "zip": (b"PK\3\4\x0a\0", "zip archive or an office document"),
    "7z": (b"7z\xbc\xaf\x27\x1c", "file is an archive. Unpack it"),
    "rar": (b"Rar!\x1a\7\1\0", "file is an archive"),
    "gzip": (b"\x1f\x8b\x08\x08", "file is an archive"),
    "Thumbs.db": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "thumbnail database"),
    "shortcut": (b"L\0\0\0\1\x14\2\0", "Windows shortcut"),
    "postscript": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
        "Ghostscript",
    ),
    "png without pixels": (png(30, 20), "cannot read"),
    "webp cut": (photo("WEBP")[:300], "cannot read"),
    "gif cut": (photo("GIF")[:900], "cannot read"),
    "tiff cut": (photo("TIFF")[:5000], "cannot read"),
    "bmp cut": (photo("BMP")[:5000], "cannot read"),
    "progressive jpeg cut": (scanless_jpeg(), "about 0%"),
    "tiff of zero size": (b"II*\0\x08\0\0\0\0\0", "cannot read"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize("from_file", [True, False])
def test_unreadable_content_is_refused_with_the_reason(kind, from_file, tmp_path):
    content, reason = UNREADABLE[kind]
    source = content
    if from_file:
        source = tmp_path / "image.jpg"
        source.write_bytes(content)
    with pytest.raises(ImageError, match=reason) as caught:
        read_image(source)
    assert ("image.jpg" in str(caught.value)) == from_file


@pytest.mark.parametrize("tags", [{254: 1, 330: 8}, {}])
def test_preview_of_a_camera_raw_file_is_refused(tags, tmp_path):
    path = tmp_path / "photo.dng"
    Image.new("RGB", (160, 120)).save(path, "TIFF", tiffinfo=tags)
    if not tags:
        assert read_image(path).size == (160, 120)
        return
    with pytest.raises(ImageError, match=r"photo.dng.: file is a camera raw image. Export it as"):
        read_image(path)
    path.with_suffix(".NEF").write_bytes(b"MM\0*" + bytes(50))
    with pytest.raises(ImageError, match=r"photo.NEF.: file is a camera raw image"):
        read_image(path.with_suffix(".NEF"))


def test_missing_annexed_file_names_git_annex(tmp_path):
    (tmp_path / "a.jpg").symlink_to(".git/annex/objects/f8/SHA256E-s9--1.jpg")
    with pytest.raises(ImageError, match=r"not in this clone. Run: git annex get"):
        read_image(tmp_path / "a.jpg")


def test_jpeg_xl_is_read_with_its_plugin(tmp_path, monkeypatch):
    stand_in = "from PIL import Image\nImage.open = lambda _: Image.new('RGB', (5, 4))\n"
    (tmp_path / "pillow_jxl.py").write_text(stand_in)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pillow_jxl", raising=False)
    monkeypatch.setattr(Image, "open", Image.open)  # restores it
    assert read_image(b"\xff\x0a\xfa\x1f").size == (5, 4)


def test_missing_file_broken_link_and_folder_are_refused(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(ImageError, match=r"cannot read '.*missing.jpg': no such file. Check"):
        read_image(tmp_path / "missing.jpg")
    with pytest.raises(ImageError, match=r"link.jpg.: it is a link to a file that does not exist"):
        read_image(tmp_path / "link.jpg")
    with pytest.raises(ImageError, match=r"folder.jpg.: it is a folder, not an image"):
        read_image(str(tmp_path / "folder.jpg"))


def test_file_without_permission_is_refused(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.png").write_bytes(photo("PNG"))
    monkeypatch.setattr(Image, "open", refuse)  # root ignores permissions
    with pytest.raises(ImageError, match=r"a.png.: permission denied"):
        read_image(tmp_path / "a.png")


NEEDS_PIPES = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")


@NEEDS_PIPES
def test_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="it is a pipe, socket or device"):
        read_image(tmp_path / "pipe.jpg")


@NEEDS_PIPES
def test_pipe_that_replaces_a_file_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "image.jpg"
    path.write_bytes(b"a file")
    before = path.stat()
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr(Path, "stat", lambda *_, **__: before)  # the state before the change
    with pytest.raises(ImageError, match=r"image.jpg.: it is a pipe"):
        read_image(path)


@NEEDS_PIPES
def test_links_to_special_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.jpg").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.jpg"))
        for path in (tmp_path / "link.jpg", tmp_path / "socket.jpg", "/dev/zero"):
            with pytest.raises(ImageError, match="it is a pipe, socket or device"):
                read_image(path)


def test_impossible_paths_are_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(photo("PNG"))
    with pytest.raises(ImageError, match=r"no such file. Check the path"):
        read_image(tmp_path / "a.png" / "b.png")
    with pytest.raises(ImageError, match="null byte"):
        read_image("a\0b.png")
    with pytest.raises(ImageError, match="name too long"):
        read_image("x" * 4000)
    with pytest.raises(ImageError, match=r"text of 5,000 characters, 'iVBORxx.*base64.b64decode"):
        read_image("iVBOR" + "x" * 4995)


def icns(body):
    length = struct.pack(">I", 8 + len(body))
    return b"icns" + struct.pack(">I", 16 + len(body)) + b"ic08" + length + body


def ico(body):
    entry = bytes([16, 16, 0, 0, 1, 0, 32, 0]) + struct.pack("<II", len(body), 22)
    return b"\0\0\1\0\1\0" + entry + body


def webp(kind, body):
    body = kind + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


LARGE = png(3000, 2000, data=b"\0" * 2000 * 9001)
BITMAP_HEADER = struct.pack("<IiiHHIIiiII", 40, 3000, 4000, 1, 32, 0, 0, 0, 0, 0, 0)
BOMBS = {
    "ico": ico(LARGE),
    "ico of a bitmap": ico(BITMAP_HEADER),
    "icns": icns(LARGE),
    "icns of jpeg 2000": icns(
        b"\0\0\0\x0cjP  \r\n\x87\n" + b"ihdr" + struct.pack(">II", 2000, 3000)
    ),
    "icns of a codestream": icns(
        b"\xff\x4f\xff\x51" + struct.pack(">HHIIII", 47, 0, 3010, 2020, 10, 20) + bytes(9)
    ),
    "webp": webp(b"VP8X", bytes(4) + (2999).to_bytes(3, "little") + (1999).to_bytes(3, "little")),
    "lossy webp": webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 3000, 2000)),
    "lossless webp": webp(b"VP8L", b"\x2f" + struct.pack("<I", 2999 | 1999 << 14) + bytes(8)),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_declared_size_is_checked_before_opening(kind, monkeypatch):
    monkeypatch.setattr(Image, "open", None)
    with pytest.raises(ImageError, match=r"3000 x 2000 pixels; the limit is 5,999,999"):
        read_image(BOMBS[kind], max_pixels=5_999_999)


@pytest.mark.parametrize(
    "content",
    [
        photo("ICO", size=(128, 128)),
        photo("ICO", size=(128, 128), bitmap_format="bmp"),
        photo("WEBP", size=(128, 128)),
        photo("WEBP", size=(128, 128), lossless=True),
        photo("WEBP", size=(128, 128), exif=b"Exif\0\0"),
    ],
)
def test_declared_size_equals_the_real_size(content):
    assert read_image(content, max_pixels=128 * 128).size == (128, 128)
    with pytest.raises(ImageError, match=r"128 x 128 pixels; the limit"):
        read_image(content, max_pixels=128 * 128 - 1)


def test_postscript_is_refused_before_opening(monkeypatch):
    monkeypatch.setattr(Image, "open", None)  # Pillow may read a long file line by line for minutes
    with pytest.raises(ImageError, match=r"EPS files need Ghostscript"):
        read_image(UNREADABLE["postscript"][0])


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_decompression_bomb_in_text_is_refused(kind):
    bomb = zlib.compress(bytes(20_000_000))
    body = {b"iTXt": b"a\0\1\0\0\0", b"zTXt": b"a\0\0", b"iCCP": b"a\0\0"}[kind] + bomb
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    whole = png(2, 2, data=bytes(14))
    with pytest.raises(ImageError, match=r"too large|Too much memory"):
        read_image(whole[:33] + chunk + whole[33:])


def test_memory_error_is_an_image_error(monkeypatch):
    def fail(_):
        raise MemoryError

    monkeypatch.setattr("captioning.images.decode.to_rgb", fail)
    with pytest.raises(ImageError, match=r"not enough memory. Shrink it"):
        read_image(photo())


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_many_frames_need_the_memory_of_one(form, tmp_path):
    pytest.importorskip("resource")
    frames = [Image.new("RGB", (1200, 1200), (each, 0, 0)) for each in range(30)]
    options = {"lossless": True, "method": 0} if form == "WEBP" else {}
    options |= {"compression": "packbits"} if form == "TIFF" else {}
    path = tmp_path / "many"
    path.write_bytes(saved(frames[0], form, save_all=True, append_images=frames[1:], **options))
    del frames
    script = """if True:
        import resource, sys
        from captioning.images.decode import read_image
        read_image(sys.argv[1])
        pages = int(open("/proc/self/statm").read().split()[0])
        limit = pages * resource.getpagesize() + (64 << 20)  # all frames would be 173 MB
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        print(read_image(sys.argv[1]).size)
    """
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc")
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "(1200, 1200)\n", done.stderr


@pytest.mark.parametrize(
    ("width", "height"), [(100_000, 100_000), (14_000, 13_000), (2**31 - 1, 1)]
)
def test_decompression_bomb_is_refused_at_once(width, height):
    before = Image.MAX_IMAGE_PIXELS
    bomb = png(width, height, depth=1, color=0, data=b"\0" * 2_000_000)
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(ImageError, match=r"too many pixels|the limit is 150,000,000"):
        read_image(bomb)
    assert time.perf_counter() - start < 1
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    assert before == Image.MAX_IMAGE_PIXELS


def test_max_pixels_is_inclusive():
    content = saved(Image.new("RGB", (40, 30)))
    assert read_image(content, max_pixels=1200).size == (40, 30)
    with pytest.raises(ImageError, match=r"40 x 30 pixels; the limit is 1,199"):
        read_image(content, max_pixels=1199)


def test_shrink_to_leaves_small_jpegs_unchanged():
    content = photo(size=(640, 480))
    assert read_image(content, shrink_to=224).tobytes() == read_image(content).tobytes()


def test_shrink_to_of_a_large_jpeg_looks_the_same():
    content = photo(size=(3200, 2400), quality=95)
    small = read_image(content, shrink_to=224)
    assert small.size == (800, 600)
    sizes = (224, 224)
    found = np.asarray(small.resize(sizes, Image.Resampling.BICUBIC)).astype(float)
    expected = np.asarray(read_image(content).resize(sizes, Image.Resampling.BICUBIC)).astype(float)
    assert np.abs(found - expected).mean() < 1


# --- truncated -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_truncated_image_is_refused_with_its_share(form, tmp_path):
    whole = photo(form)
    path = tmp_path / "cut.jpg"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ImageError, match=r"cut.jpg.: it is incomplete or damaged: about [3-6]\d% of its"
    ):
        read_image(path)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_allow_truncated_reads_the_rows_that_exist(form):
    whole = photo(form)
    expected = np.asarray(read_image(whole)).astype(int)
    found = np.asarray(read_image(whole[: len(whole) // 2], allow_truncated=True)).astype(int)
    assert found.shape == expected.shape
    # JPEG's smooth chroma reaches over the edge of the last rows that are there.
    assert np.abs(found[:64] - expected[:64]).max() <= 2
    assert not found[-20:].any()


def blocks(image):
    values = np.asarray(image).astype(float)
    return values.reshape(values.shape[0] // 16, 16, values.shape[1] // 16, 16, 3).mean((1, 3))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_allow_truncated_reads_first_progressive_scans(share, mode):
    thumbnail = Image.Exif()
    thumbnail[0x010F] = photo(size=(32, 24)).decode(
        "latin-1"
    )  # its markers must not be mistaken for the image's
    image = Image.open(io.BytesIO(photo())).convert(mode)
    whole = saved(image, "JPEG", progressive=True, exif=thumbnail)
    cut = whole[: int(len(whole) * share)]
    with pytest.raises(ImageError, match=r"about (9\d|100)% of its rows are readable at low"):
        read_image(cut)
    found = blocks(read_image(cut, allow_truncated=True))
    assert np.abs(found - blocks(read_image(whole))).mean() < 12


def test_jpeg_cut_in_its_first_scan_is_black_below():
    whole = photo("JPEG", progressive=True)
    begin = len(scanless_jpeg())
    end = whole.index(b"\xff\xda", begin)
    cut = whole[: (begin + end) // 2]
    with pytest.raises(ImageError, match=r"about [3-7]\d% of its rows are readable at low"):
        read_image(cut)
    found = np.asarray(read_image(cut, allow_truncated=True))
    assert found[:64].any(axis=(1, 2)).all()
    assert not found[-48:].any()


def test_progressive_jpeg_cut_in_a_table_is_read():
    whole = photo("JPEG", progressive=True)
    cut = whole[: whole.rindex(b"\xff\xc4") + 9]
    found = blocks(read_image(cut, allow_truncated=True))
    assert np.abs(found - blocks(read_image(whole))).mean() < 3


def test_truncated_progressive_jpeg_may_be_shrunk():
    whole = photo(size=(3200, 2400), progressive=True)
    found = read_image(whole[: len(whole) * 9 // 10], allow_truncated=True, shrink_to=224)
    assert found.size == (800, 600)


def test_allow_truncated_reads_a_damaged_tiff():
    whole = photo("TIFF", compression="tiff_lzw")
    damaged = bytearray(whole)
    damaged[len(whole) * 6 // 10 : len(whole) * 9 // 10] = b"\xff" * (len(whole) * 3 // 10)
    with pytest.raises(ImageError, match=r"incomplete or damaged: about \d\d% of its rows"):
        read_image(bytes(damaged))
    found = np.asarray(read_image(bytes(damaged), allow_truncated=True))
    np.testing.assert_array_equal(found[:60], np.asarray(read_image(whole))[:60])


def test_allow_truncated_refuses_an_image_without_rows():
    with pytest.raises(ImageError, match="about 0%"):
        read_image(scanless_jpeg(), allow_truncated=True)


def test_allow_truncated_does_not_affect_other_threads():
    cut = photo()[:4000]
    lenient = threading.Event()
    stop = threading.Event()

    def allow():
        while not stop.is_set():
            read_image(cut, allow_truncated=True)
            lenient.set()

    thread = threading.Thread(target=allow)
    thread.start()
    lenient.wait(10)
    try:
        for _ in range(100):
            with pytest.raises(ImageError, match="incomplete"):
                read_image(cut)
    finally:
        stop.set()
        thread.join()


# --- kinds of files -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animation_is_read_as_its_first_frame(form):
    frames = [Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), GREEN)]
    options = {"lossless": True} if form == "WEBP" else {}
    content = saved(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert np.asarray(read_image(content)).reshape(-1, 3).mean(0).tolist() == list(RED)


def test_small_first_frame_keeps_its_position():
    content = bytearray(saved(Image.new("L", (4, 2), 200), "GIF"))
    place = content.index(b",", 13)  # GIF89a, sections 18 and 20: the frame's place, the canvas
    content[place + 1 : place + 5] = struct.pack("<HH", 3, 5)
    content[6:10] = struct.pack("<HH", 10, 9)
    found = np.asarray(read_image(bytes(content)))
    assert found.shape == (9, 10, 3)
    assert (found[5:7, 3:7] == 200).all()
    assert (found == 200).all(2).sum() in (8, 90)  # black or the background surrounds it


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (20_000, 20)])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "BMP", "GIF"])
def test_tiny_and_very_long_images_are_read(size, form):
    content = saved(Image.new("RGB", size, RED), form)
    assert read_image(content).size == read_image(content, shrink_to=224).size == size


@pytest.mark.parametrize("ending", [".jpg", ".txt", ""])
def test_file_extension_does_not_matter(ending, tmp_path):
    path = tmp_path / f"image{ending}"
    path.write_bytes(saved(Image.fromarray(pattern()), "PNG"))
    np.testing.assert_array_equal(np.asarray(read_image(path)), pattern())


# --- damaged metadata ----------------------------------------------------------------------------

DAMAGED_EXIF = (
    b"Exif\0\0garbage",
    b"Exif\0\0II*\0\xff\xff\xff\x7f",
    b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
)


@pytest.mark.parametrize("exif", DAMAGED_EXIF)
def test_damaged_exif_is_ignored(exif):
    content = saved(Image.new("RGB", (16, 16), RED), "JPEG", exif=exif)
    assert read_image(content).size == (16, 16)


def test_damaged_color_profile_is_ignored():
    content = saved(Image.fromarray(pattern()), icc_profile=b"no profile" * 30)
    np.testing.assert_array_equal(np.asarray(read_image(content)), pattern())


def test_pillow_warnings_are_ignored_in_all_threads():
    damaged = saved(Image.new("RGB", (16, 16), RED), "JPEG", exif=DAMAGED_EXIF[2])
    with pytest.warns(UserWarning, match="EXIF"), Image.open(io.BytesIO(damaged)) as image:
        image.getexif()  # this image causes a warning
    before = list(warnings.filters)
    failures = []

    def read():
        try:
            for _ in range(100):
                read_image(damaged)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
    assert not seen
    read_image(damaged)
    assert list(warnings.filters) == before


# --- sources ------------------------------------------------------------------------------------


def test_all_sources_give_the_same_image(tmp_path):
    content = saved(Image.fromarray(pattern()))
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with path.open("rb") as file, Image.open(path) as image:
        sources = [path, str(path), content, file, io.BytesIO(content), image, pattern()]
        for source in sources:
            np.testing.assert_array_equal(np.asarray(read_image(source)), pattern())
        assert not file.closed


def test_pillow_image_of_the_caller_is_unchanged():
    mine = Image.fromarray(pattern())
    read = read_image(mine)
    read.paste(RED, (0, 0, 10, 10))
    np.testing.assert_array_equal(np.asarray(mine), pattern())


def test_read_image_closes_its_files(tmp_path):
    path = tmp_path / "a.gif"
    frames = [Image.new("L", (8, 8), shade) for shade in (0, 255)]
    path.write_bytes(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    (tmp_path / "b.png").write_bytes(photo("PNG")[:2000])
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("needs /proc")
    before = len(list(folder.iterdir()))
    for _ in range(5):
        read_image(path)
        with pytest.raises(ImageError):
            read_image(tmp_path / "b.png")
    assert len(list(folder.iterdir())) == before


def test_damaged_bytes_give_an_image_or_an_image_error():
    random = np.random.default_rng(1)
    for form in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"):
        whole = np.frombuffer(photo(form, size=(64, 48)), np.uint8)
        for _ in range(40):
            damaged = whole.copy()
            places = random.integers(0, len(whole), 3)
            damaged[places] = random.integers(0, 256, 3)
            try:
                image = read_image(damaged.tobytes(), max_pixels=1_000_000)
            except ImageError:
                continue
            assert image.mode == "RGB"


def test_shrink_to_keeps_the_callers_image():
    with Image.open(io.BytesIO(photo(size=(1600, 1200)))) as image:
        read_image(image, shrink_to=16)
        assert image.size == (1600, 1200)
        assert image.getpixel((0, 0)) is not None
