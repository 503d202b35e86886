import io
import os
import struct
import threading
import time
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioning.data.images import read_image
from captioning.errors import ImageError

RED, GREEN = (200, 30, 40), (20, 180, 60)


def pattern(height=24, width=36):
    """A picture that looks different however it is turned or mirrored."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 10, columns * 7, (rows * columns) % 251], 2).astype(np.uint8)


def photo(form="JPEG", size=(320, 240), **options):
    noise = np.random.default_rng(0).integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
    picture = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    return saved(picture, form, **options)


def saved(picture, form="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def png(width, height, depth=8, colour=2, data=b""):
    """A PNG written by hand, so that its header can say what Pillow would not write."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


# --- what cannot be read -------------------------------------------------------------------------

UNREADABLE = {
    "empty": (b"", "is no picture that can be read: it is empty"),
    "zeros": (b"\0" * 5000, "it begins with zeros only"),
    "text": (b"not a picture at all\n", r"it holds text \('not a picture at all"),
    "html": (b"<!doctype html><p>404", "it is a web page"),
    "header only": (photo("PNG")[:8], "cannot be read|no picture"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "it is an SVG drawing"),
    "postscript": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
        "Ghostscript",
    ),
    "png without pixels": (png(30, 20), "cut off or damaged|cannot be read"),
    "webp cut": (photo("WEBP")[:300], "cannot be read|no picture|cut off"),
    "gif cut": (photo("GIF")[:900], "cut off or damaged|cannot be read"),
    "tiff cut": (photo("TIFF")[:5000], "cut off or damaged|cannot be read"),
    "bmp cut": (photo("BMP")[:5000], "cut off or damaged|cannot be read"),
    "progressive jpeg cut": (photo("JPEG", progressive=True)[:2000], "about 0%"),
    "tiff of zero size": (b"II*\0\x08\0\0\0\0\0", "cannot be read|no picture"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize("from_file", [True, False])
def test_what_is_no_whole_picture_is_refused_with_the_reason(kind, from_file, tmp_path):
    content, reason = UNREADABLE[kind]
    source = content
    if from_file:
        source = tmp_path / "picture.jpg"
        source.write_bytes(content)
    with pytest.raises(ImageError, match=reason) as caught:
        read_image(source)
    assert ("picture.jpg" in str(caught.value)) == from_file


def test_a_missing_file_a_dangling_link_and_a_folder_are_told_apart(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(ImageError, match=r"missing.jpg does not exist. Check"):
        read_image(tmp_path / "missing.jpg")
    with pytest.raises(ImageError, match=r"link.jpg is a link to a file that does not exist"):
        read_image(tmp_path / "link.jpg")
    with pytest.raises(ImageError, match=r"folder.jpg is a folder, not a picture"):
        read_image(str(tmp_path / "folder.jpg"))


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.png").write_bytes(photo("PNG"))
    monkeypatch.setattr(Image, "open", refuse)  # root may read what chmod forbids
    with pytest.raises(ImageError, match=r"a.png may not be read by this user"):
        read_image(tmp_path / "a.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_that_nobody_writes_to_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="no ordinary file"):
        read_image(tmp_path / "pipe.jpg")


@pytest.mark.parametrize(
    ("width", "height"), [(100_000, 100_000), (14_000, 13_000), (2**31 - 1, 1)]
)
def test_a_bomb_is_refused_at_once_in_little_memory(width, height):
    before = Image.MAX_IMAGE_PIXELS
    bomb = png(width, height, depth=1, colour=0, data=b"\0" * 2_000_000)
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(ImageError, match=r"larger than Pillow|more than the limit of 150,000,000"):
        read_image(bomb)
    assert time.perf_counter() - start < 1
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    assert before == Image.MAX_IMAGE_PIXELS


def test_the_limit_counts_pixels_and_can_be_moved():
    content = saved(Image.new("RGB", (40, 30)))
    assert read_image(content, max_pixels=1200).size == (40, 30)
    with pytest.raises(ImageError, match=r"40 x 30 pixels, more than the limit of 1,199"):
        read_image(content, max_pixels=1199)


def test_a_photo_of_the_usual_size_is_not_shrunk_before_it_is_resized():
    content = photo(size=(640, 480))
    assert read_image(content, shrink_to=224).tobytes() == read_image(content).tobytes()


def test_a_large_photo_may_be_shrunk_while_it_is_unpacked_and_shows_the_same():
    content = photo(size=(3200, 2400), quality=95)
    small = read_image(content, shrink_to=224)
    assert small.size == (1600, 1200)
    sizes = (224, 224)
    found = np.asarray(small.resize(sizes, Image.Resampling.BICUBIC)).astype(float)
    expected = np.asarray(read_image(content).resize(sizes, Image.Resampling.BICUBIC)).astype(float)
    assert np.abs(found - expected).mean() < 1


# --- cut off -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_cut_picture_is_refused_and_the_message_says_how_much_there_is(form, tmp_path):
    whole = photo(form)
    path = tmp_path / "cut.jpg"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"cut.jpg is cut off or damaged: about [3-6]\d% of its"):
        read_image(path)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_cut_picture_is_read_on_request_as_far_as_it_goes(form):
    whole = photo(form)
    expected = np.asarray(read_image(whole)).astype(int)
    found = np.asarray(read_image(whole[: len(whole) // 2], allow_truncated=True)).astype(int)
    assert found.shape == expected.shape
    # JPEG's smooth chroma reaches over the edge of the last rows that are there.
    assert np.abs(found[:64] - expected[:64]).max() <= 2
    assert not found[-20:].any()


def test_nothing_at_all_is_no_picture_even_on_request():
    with pytest.raises(ImageError, match="about 0%"):
        read_image(photo("JPEG", progressive=True)[:2000], allow_truncated=True)


def test_a_reader_that_allows_cuts_does_not_make_others_allow_them():
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
            with pytest.raises(ImageError, match="cut off"):
                read_image(cut)
    finally:
        stop.set()
        thread.join()


# --- orientation ---------------------------------------------------------------------------------

# What a viewer must see of a picture stored with each orientation; EXIF 2.32, section 4.6.4:
# the place of the stored row 0 and column 0 in the picture as seen.
SEEN = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("orientation", SEEN)
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_a_picture_is_turned_as_its_orientation_says(orientation, form):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    content = saved(Image.fromarray(pattern()), form, exif=exif, **options)
    found = np.asarray(read_image(content))
    np.testing.assert_array_equal(found, SEEN[orientation](pattern()))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(Image.fromarray(pattern()), "PNG", exif=exif)
    np.testing.assert_array_equal(np.asarray(read_image(content)), pattern())


def test_a_turned_palette_keeps_its_transparency():
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.new("P", (3, 2), 1)
    picture.putpalette([0, 0, 0, *RED])
    picture.putpixel((0, 0), 0)
    content = saved(picture, exif=exif, transparency=0)
    found = np.asarray(read_image(content))
    assert found.shape == (3, 2, 3)
    assert found[0, 1].tolist() == [255, 255, 255]
    assert found[2, 0].tolist() == list(RED)


# --- kinds of pixels -----------------------------------------------------------------------------


def test_transparency_lies_over_white():
    picture = Image.new("RGBA", (2, 1), (*RED, 255))
    picture.putpixel((1, 0), (0, 0, 0, 128))
    assert np.asarray(read_image(picture)).tolist() == [[list(RED), [127, 127, 127]]]
    grey = Image.new("LA", (1, 1), (0, 0))
    assert np.asarray(read_image(saved(grey))).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_white(form):
    picture = Image.new("P", (2, 1), 1)
    picture.putpalette([0, 0, 0, *RED])
    picture.putpixel((0, 0), 0)
    found = np.asarray(read_image(saved(picture, form, transparency=0)))
    assert found.tolist() == [[[255, 255, 255], list(RED)]]


@pytest.mark.parametrize(("mode", "colour"), [("L", 9), ("RGB", RED)])
def test_a_transparent_colour_is_white(mode, colour):
    content = saved(Image.new(mode, (2, 2), colour), transparency=colour)
    assert (np.asarray(read_image(content)) == 255).all()


def test_grey_and_black_and_white_become_rgb():
    assert np.asarray(read_image(saved(Image.new("L", (1, 1), 77)))).tolist() == [[[77] * 3]]
    bits = Image.new("1", (2, 1), 0)
    bits.putpixel((1, 0), 1)
    assert np.asarray(read_image(saved(bits))).tolist() == [[[0] * 3, [255] * 3]]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_greys_keep_their_order_and_range(form):
    values = np.array([[0, 128, 32896, 65535]], np.uint16)
    found = np.asarray(read_image(saved(Image.fromarray(values), form)))
    assert found[0, :, 0].tolist() == [0, 0, 128, 255]


def test_a_16_bit_colour_png_is_read():
    pixel = struct.pack(">HHH", 65535, 32896, 0)
    found = np.asarray(read_image(png(1, 1, depth=16, data=b"\0" + pixel)))
    assert found.tolist() == [[[255, 128, 0]]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[-5, 32768, 65535]], np.int32), [0, 128, 255]),
        (np.array([[0, 10**8, 2 * 10**8]], np.int32), [0, 128, 255]),
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 100, 255]], np.float32), [0, 100, 255]),
        (np.array([[np.nan, np.inf, 1]], np.float32), [0, 0, 255]),
    ],
)
def test_32_bit_and_floating_point_greys_are_brought_to_8_bits(values, expected):
    found = np.asarray(read_image(saved(Image.fromarray(values), "TIFF")))
    assert found[0, :, 0].tolist() == pytest.approx(expected, abs=1)


def test_the_inverted_inks_of_a_cmyk_jpeg_are_put_right():
    content = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")  # no cyan: red
    assert b"Adobe" in content
    found = np.asarray(read_image(content)).reshape(-1, 3).mean(0)
    assert found.tolist() == pytest.approx([255, 0, 0], abs=6)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_stands_for_an_animation(form):
    frames = [Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), GREEN)]
    options = {"lossless": True} if form == "WEBP" else {}
    content = saved(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert np.asarray(read_image(content)).reshape(-1, 3).mean(0).tolist() == list(RED)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_very_small_and_very_long_pictures_are_read(size):
    assert read_image(saved(Image.new("RGB", size, RED))).size == size


@pytest.mark.parametrize("ending", [".jpg", ".txt", ""])
def test_the_name_does_not_decide_what_a_file_is(ending, tmp_path):
    path = tmp_path / f"picture{ending}"
    path.write_bytes(saved(Image.fromarray(pattern()), "PNG"))
    np.testing.assert_array_equal(np.asarray(read_image(path)), pattern())


# --- damaged metadata ----------------------------------------------------------------------------

DAMAGED_EXIF = (
    b"Exif\0\0garbage",
    b"Exif\0\0II*\0\xff\xff\xff\x7f",
    b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
)


@pytest.mark.parametrize("exif", DAMAGED_EXIF)
def test_damaged_exif_does_not_cost_the_picture(exif):
    content = saved(Image.new("RGB", (16, 16), RED), "JPEG", exif=exif)
    assert read_image(content).size == (16, 16)


def test_a_damaged_colour_profile_does_not_cost_the_picture():
    content = saved(Image.fromarray(pattern()), icc_profile=b"no profile" * 30)
    np.testing.assert_array_equal(np.asarray(read_image(content)), pattern())


def test_warnings_of_pillow_do_not_reach_the_caller_from_any_thread():
    damaged = saved(Image.new("RGB", (16, 16), RED), "JPEG", exif=DAMAGED_EXIF[2])
    with pytest.warns(UserWarning, match="EXIF"), Image.open(io.BytesIO(damaged)) as image:
        image.getexif()  # the picture does make Pillow warn
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


# --- where a picture comes from ------------------------------------------------------------------


def test_a_picture_is_the_same_from_wherever_it_comes(tmp_path):
    content = saved(Image.fromarray(pattern()))
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with path.open("rb") as file, Image.open(path) as image:
        sources = [path, str(path), content, file, io.BytesIO(content), image, pattern()]
        for source in sources:
            np.testing.assert_array_equal(np.asarray(read_image(source)), pattern())
        assert not file.closed


def test_a_pillow_image_of_the_caller_is_left_as_it_is():
    mine = Image.fromarray(pattern())
    read = read_image(mine)
    read.paste(RED, (0, 0, 10, 10))
    np.testing.assert_array_equal(np.asarray(mine), pattern())


def test_arrays_may_be_grey_or_have_alpha():
    assert np.asarray(read_image(np.full((2, 3), 7, np.uint8))).tolist() == [[[7] * 3] * 3] * 2
    assert (np.asarray(read_image(np.zeros((2, 3, 4), np.uint8))) == 255).all()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 3, 3), np.float32),
        np.zeros((3, 20, 20), np.uint8),
        np.zeros((1, 2, 3, 3), np.uint8),
        np.zeros((0, 3, 3), np.uint8),
    ],
)
def test_an_array_that_is_no_picture_is_refused(array):
    with pytest.raises(ImageError, match=r"An array of shape \("):
        read_image(array)


def test_no_file_stays_open(tmp_path):
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


def test_any_flipped_byte_gives_a_picture_or_an_image_error():
    random = np.random.default_rng(1)
    for form in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"):
        whole = np.frombuffer(photo(form, size=(64, 48)), np.uint8)
        for _ in range(40):
            damaged = whole.copy()
            places = random.integers(0, len(whole), 3)
            damaged[places] = random.integers(0, 256, 3)
            try:
                picture = read_image(damaged.tobytes(), max_pixels=1_000_000)
            except ImageError:
                continue
            assert picture.mode == "RGB"


def test_a_callers_own_picture_keeps_its_size():
    with Image.open(io.BytesIO(photo(size=(1600, 1200)))) as picture:
        read_image(picture, shrink_to=16)
        assert picture.size == (1600, 1200)
        assert picture.getpixel((0, 0)) is not None
