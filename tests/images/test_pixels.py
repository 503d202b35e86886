"""Conversion of every kind of pixels to upright 8-bit sRGB."""

import io
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from captioning.images import pixels
from captioning.images.decode import read_image

RED, GREEN = (200, 30, 40), (20, 180, 60)


def pattern(height=24, width=36):
    """Return pixels that differ in each of the eight orientations."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 10, columns * 7, (rows * columns) % 251], 2).astype(np.uint8)


def saved(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png(width, height, depth, color, data, interlaced=0, **chunks):
    """Return a PNG of a kind that Pillow cannot write."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    middle = b"".join(chunk(kind.encode(), body) for kind, body in chunks.items())
    body = chunk(b"IHDR", header) + middle + chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def tiff(data, width, height, bits, order="<", photometric=1, kind=1, **stated):
    """Return an uncompressed gray TIFF (TIFF 6.0, section 2).

    ``kind`` is its SampleFormat: 1 unsigned, 2 signed, 3 floating-point.
    """
    long, float_ = ("I", 4), ("f", 11)
    tags = {256: (long, width), 257: (long, height), 258: (long, bits), 259: (long, 1)}
    tags |= {262: (long, photometric), 273: (long, 0), 277: (long, 1), 278: (long, height)}
    tags |= {279: (long, len(data)), 339: (long, kind)}
    for name, value in stated.items():
        number = {"MinSample": 280, "MaxSample": 281, "SMinSample": 340, "SMaxSample": 341}[name]
        tags[number] = (float_ if isinstance(value, float) else long, value)
    start = 8 + 2 + 12 * len(tags) + 4
    tags[273] = (long, start)
    entries = b"".join(
        struct.pack(f"{order}HHI{code}", number, kind_, 1, value)
        for number, ((code, kind_), value) in sorted(tags.items())
    )
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8)
    return head + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + data


def grays(values, order="<", **options):
    """Return the grays that are read from a TIFF with one row of values."""
    values = np.asarray(values)
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    content = tiff(data, len(values), 1, values.itemsize * 8, order, kind=kind, **options)
    return np.asarray(read_image(content))[0, :, 0].tolist()


# --- orientation ---------------------------------------------------------------------------------

# The displayed image for each stored orientation (EXIF 2.32, section 4.6.4).
DISPLAYED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("orientation", DISPLAYED)
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied_exactly(orientation, form):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    content = saved(Image.fromarray(pattern()), form, exif=exif, **options)
    found = np.asarray(read_image(content))
    np.testing.assert_array_equal(found, DISPLAYED[orientation](pattern()))


@pytest.mark.parametrize("orientation", DISPLAYED)
@pytest.mark.parametrize("form", ["JPEG", "MPO", "AVIF"])
def test_exif_orientation_is_applied_to_lossy_formats(orientation, form):
    smooth = np.asarray(Image.fromarray(pattern(2, 3)).resize((48, 32), Image.Resampling.BILINEAR))
    exif = Image.Exif()
    exif[0x0112] = orientation
    try:
        content = saved(Image.fromarray(smooth), form, quality=95, exif=exif)
    except KeyError:
        pytest.skip(f"this Pillow writes no {form}")
    found = np.asarray(read_image(content)).astype(int)
    assert np.abs(found - DISPLAYED[orientation](smooth)).mean() < 4


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_xmp_orientation_is_ignored(form):
    xmp = '<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp)
    options = {"PNG": {"pnginfo": text}, "TIFF": {"tiffinfo": {700: xmp.encode()}}}
    content = saved(Image.new("RGB", (30, 20)), form, **options.get(form, {"xmp": xmp.encode()}))
    assert Image.open(io.BytesIO(content)).getexif()[0x0112] == 6  # Pillow would turn it
    assert read_image(content).size == (30, 20)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG"])
def test_reading_a_result_again_changes_nothing(form):
    exif = Image.Exif()
    exif[0x0112] = 6
    once = read_image(saved(Image.fromarray(pattern()), form, exif=exif, icc_profile=P3))
    np.testing.assert_array_equal(np.asarray(read_image(once)), np.asarray(once))


def test_exif_orientation_is_applied_to_a_cut_tiff():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = saved(Image.fromarray(pattern()), "TIFF", exif=exif)
    rows = pattern()[:10].tobytes()
    cut = content[: content.index(rows) + len(rows)]
    head = content[: content.index(rows)]
    if len(head) > 1000:
        pytest.skip("this Pillow writes the tags after the pixels")
    found = np.asarray(read_image(cut, allow_truncated=True))
    expected = pattern()
    expected[10:] = 0
    np.testing.assert_array_equal(found, DISPLAYED[6](expected))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_invalid_exif_orientation_is_ignored(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(Image.fromarray(pattern()), "PNG", exif=exif)
    np.testing.assert_array_equal(np.asarray(read_image(content)), pattern())


def test_turned_palette_keeps_its_transparency():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("P", (3, 2), 1)
    image.putpalette([0, 0, 0, *RED])
    image.putpixel((0, 0), 0)
    content = saved(image, exif=exif, transparency=0)
    found = np.asarray(read_image(content))
    assert found.shape == (3, 2, 3)
    assert found[0, 1].tolist() == [255, 255, 255]
    assert found[2, 0].tolist() == list(RED)


# --- modes -------------------------------------------------------------------------------------


def test_transparency_is_placed_over_white():
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((1, 0), (0, 0, 0, 128))
    assert np.asarray(read_image(image)).tolist() == [[list(RED), [127, 127, 127]]]
    gray = Image.new("LA", (1, 1), (0, 0))
    assert np.asarray(read_image(saved(gray))).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_transparent_palette_entry_is_white(form):
    image = Image.new("P", (2, 1), 1)
    image.putpalette([0, 0, 0, *RED])
    image.putpixel((0, 0), 0)
    found = np.asarray(read_image(saved(image, form, transparency=0)))
    assert found.tolist() == [[[255, 255, 255], list(RED)]]


@pytest.mark.parametrize(("mode", "color"), [("L", 9), ("RGB", RED)])
def test_transparent_color_is_white(mode, color):
    content = saved(Image.new(mode, (2, 2), color), transparency=color)
    assert (np.asarray(read_image(content)) == 255).all()


def test_gray_and_bilevel_images_become_rgb():
    assert np.asarray(read_image(saved(Image.new("L", (1, 1), 77)))).tolist() == [[[77] * 3]]
    bits = Image.new("1", (2, 1), 0)
    bits.putpixel((1, 0), 1)
    assert np.asarray(read_image(saved(bits))).tolist() == [[[0] * 3, [255] * 3]]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_grays_are_scaled_to_8_bits(form):
    values = np.array([[0, 128, 32896, 65535]], np.uint16)
    found = np.asarray(read_image(saved(Image.fromarray(values), form)))
    assert found[0, :, 0].tolist() == [0, 0, 128, 255]


def test_16_bit_color_png_is_read():
    pixel = struct.pack(">HHH", 65535, 32896, 0)
    found = np.asarray(read_image(png(1, 1, 16, 2, b"\0" + pixel)))
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
def test_32_bit_grays_are_scaled_to_8_bits(values, expected):
    found = np.asarray(read_image(saved(Image.fromarray(values), "TIFF")))
    assert found[0, :, 0].tolist() == pytest.approx(expected, abs=1)


def test_cmyk_jpeg_of_adobe_is_inverted():
    content = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")  # no cyan: red
    assert b"Adobe" in content
    found = np.asarray(read_image(content)).reshape(-1, 3).mean(0)
    assert found.tolist() == pytest.approx([255, 0, 0], abs=6)


# --- more than 8 bits ----------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("top", [255, 1023, 4095, 16383, 65535])
def test_grays_of_fewer_bits_in_16_keep_their_brightness(top, order):
    values = np.array([0, top // 4, top // 2, top], np.uint16)
    assert grays(values, order) == pytest.approx([0, 64, 128, 255], abs=1)


def test_packed_12_bit_grays_keep_their_range():
    packed = bytes([0x40, 0x00, 0x80])  # 0x400 and 0x080, of 0xfff
    found = np.asarray(read_image(tiff(packed, 2, 1, 12)))
    assert found[0, :, 0].tolist() == [64, 8]


@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG2000"])
def test_12_bits_in_16_are_equal_in_all_formats(form):
    content = saved(Image.fromarray(np.array([[0, 2048, 4095]], np.uint16)), form)
    assert np.asarray(read_image(content))[0, :, 0].tolist() == pytest.approx([0, 128, 255], abs=1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0.25, 0.5, 1], [0, 64, 128, 255]),
        ([0, 0.25, 0.5, 1.03], [0, 64, 128, 255]),  # overshoots, as resampled images do
        ([0, 64, 128, 255], [0, 64, 128, 255]),
        ([0, 16384, 32768, 65535], [0, 64, 128, 255]),
        ([0, 250_000, 500_000, 1_000_000], [0, 64, 128, 255]),
        ([0, 0.5, 1, 2], [0, 64, 128, 255]),
        ([-1000, -500, 0, 1000], [0, 64, 128, 255]),
        ([-4, -4, -4, -4], [0, 0, 0, 0]),
        ([-3e38, 0, 3e38, np.nan], [0, 128, 255, 0]),
    ],
)
def test_float_grays_of_any_range_are_scaled(values, expected, order):
    assert grays(np.array(values, np.float32), order) == pytest.approx(expected, abs=1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [np.int16, np.int32])
def test_signed_grays_are_scaled_from_min_to_max(kind, order):
    values = np.array([-1000, -500, 0, 1000], kind)
    assert grays(values, order) == pytest.approx([0, 64, 128, 255], abs=1)


def test_unsigned_32_bit_grays_are_not_read_as_signed():
    values = np.array([0, 2**31, 2**32 - 1], np.uint32)
    assert grays(values) == pytest.approx([0, 128, 255], abs=1)


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_white_is_zero_tiff_is_inverted(kind):
    values = np.array([0, 16384, 65535], kind)
    assert grays(values, photometric=0) == pytest.approx([255, 191, 0], abs=1)


def test_stated_range_of_a_tiff_is_used():
    values = np.array([0, 100, 200], np.uint16)
    assert grays(values, SMinSample=0, SMaxSample=800) == pytest.approx([0, 32, 64], abs=1)
    assert grays(values, MinSample=0, MaxSample=800) == pytest.approx([0, 32, 64], abs=1)
    values = np.array([0.1, 0.2], np.float32)
    assert grays(values, SMinSample=0.0, SMaxSample=0.8) == pytest.approx([32, 64], abs=1)


def test_wrong_or_full_stated_range_is_ignored():
    values = np.array([0, 2048, 4095], np.uint16)
    assert grays(values, SMinSample=0, SMaxSample=100) == pytest.approx([0, 128, 255], abs=1)
    assert grays(values, SMinSample=0, SMaxSample=65535) == pytest.approx([0, 128, 255], abs=1)
    assert grays(values, SMinSample=9, SMaxSample=9) == pytest.approx([0, 128, 255], abs=1)


@pytest.mark.parametrize(("order", "code"), [("<", "I;16"), (">", "I;16B")])
def test_16_bit_pillow_images_of_both_byte_orders(order, code):
    numbers = np.array([0, 32896, 65535]).astype(f"{order}u2")
    found = np.asarray(read_image(Image.frombytes(code, (3, 1), numbers.tobytes())))
    assert found[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(("color", "numbers"), [(0, (1000,)), (2, (1000, 2000, 3000))])
def test_transparent_16_bit_color_is_white(color, numbers):
    clear = struct.pack(f">{len(numbers)}H", *numbers)
    content = png(2, 1, 16, color, b"\0" + clear + bytes(len(clear)), tRNS=clear)
    assert np.asarray(read_image(content)).tolist() == [[[255] * 3, [0] * 3]]


# --- rarer modes ---------------------------------------------------------------------------------


def test_interlaced_png_equals_the_plain_one():
    gray = (np.arange(9)[:, None] * 20 + np.arange(11) * 3).astype(np.uint8)
    data, passes = b"", "0088 4088 0448 2044 0224 1022 0112"  # PNG specification, section 8.2
    for column, row, columns, rows in (map(int, each) for each in passes.split()):
        data += b"".join(b"\0" + line.tobytes() for line in gray[row::rows, column::columns])
    found = np.asarray(read_image(png(11, 9, 8, 0, data, interlaced=1)))
    np.testing.assert_array_equal(found, np.stack([gray] * 3, 2))


def test_palette_entries_may_be_partly_transparent():
    palette = {"PLTE": bytes([0, 0, 0, *RED]), "tRNS": bytes([128, 255])}
    found = np.asarray(read_image(png(2, 1, 8, 3, b"\0\0\1", **palette)))
    assert found.tolist() == [[[127, 127, 127], list(RED)]]


@pytest.mark.parametrize(
    ("mode", "pixel", "expected"),
    [
        ("RGBA", (100, 0, 0, 128), (177, 127, 127)),
        ("RGBa", (50, 0, 0, 128), (177, 127, 127)),  # its colors are multiplied with alpha
        ("LA", (100, 128), (177, 177, 177)),
        ("La", (50, 128), (177, 177, 177)),
        ("RGBX", (*RED, 7), RED),
        ("HSV", (0, 255, 200), (200, 0, 0)),
        ("YCbCr", (120, 128, 128), (120, 120, 120)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
    ],
)
def test_every_mode_becomes_rgb(mode, pixel, expected):
    image = Image.new(mode, (2, 2), pixel)
    assert np.asarray(read_image(image))[0, 0].tolist() == pytest.approx(expected, abs=1)


def test_palette_with_alpha_is_placed_over_white():
    image = Image.new("PA", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putpixel((0, 0), (1, 255))
    assert np.asarray(read_image(image)).tolist() == [[list(GREEN), [255] * 3]]
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, 0, *GREEN, 255], "RGBA")
    image.putpixel((0, 0), 1)
    assert np.asarray(read_image(image)).tolist() == [[list(GREEN), [255] * 3]]


# CIE 15:2018, section 8.2.1, and IEC 61966-2-1, in NumPy.
WHITE_D50 = np.array([0.9642, 1, 0.8249])
SRGB_D50 = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)


def srgb_of_xyz(xyz):
    linear = np.clip(np.linalg.solve(SRGB_D50, np.asarray(xyz)), 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def srgb_of_lab(lightness, a, b):
    y = (lightness + 16) / 116
    f = np.array([y + a / 500, y, y - b / 200])
    return srgb_of_xyz(WHITE_D50 * np.where(f > 6 / 29, f**3, (f - 4 / 29) * 3 * (6 / 29) ** 2))


@pytest.mark.parametrize("lab", [(60, 0, 0), (60, 40, 20), (40, -20, 30), (80, 5, -25)])
def test_lab_tiff_is_converted_to_srgb(lab):
    lightness, a, b = lab
    image = Image.new("LAB", (4, 4), (round(lightness * 2.55), a + 128, b + 128))
    found = np.asarray(read_image(saved(image, "TIFF")))[0, 0]
    assert found.tolist() == pytest.approx(srgb_of_lab(*lab), abs=3)


# --- color profiles -----------------------------------------------------------------------------


def fixed(*numbers):
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


def profile(space, connection=b"XYZ ", kind=b"mntr", **tags):
    """An ICC profile written by hand; ICC.1:2001-04, section 6."""
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, body in tags.items():
        table += name.encode() + struct.pack(">II", start + len(data), len(body))
        data += body + bytes(-len(body) % 4)
    head = struct.pack(">I4xI", start + len(data), 0x02400000) + kind + space + connection
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(*WHITE_D50)
    return head.ljust(128, b"\0") + table + data


def xyz_tag(*numbers):
    return b"XYZ " + bytes(4) + fixed(*numbers)


def gamma_tag(gamma):
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def rgb_profile(columns, gamma=2.2):
    tags = {f"{name}XYZ": xyz_tag(*column) for name, column in zip("rgb", columns, strict=True)}
    tags |= {f"{name}TRC": gamma_tag(gamma) for name in "rgb"}
    return profile(b"RGB ", wtpt=xyz_tag(*WHITE_D50), **tags)


PRIMARIES = {  # the XYZ of red, green and blue, adapted to D50
    "Display P3": np.array(
        [[0.51512, 0.24120, -0.00105], [0.29198, 0.69225, 0.04189], [0.15710, 0.06657, 0.78407]]
    ),
    "Adobe RGB": np.array(
        [[0.60974, 0.31111, 0.01947], [0.20528, 0.62567, 0.06087], [0.14919, 0.06322, 0.74457]]
    ),
}
INKS = {"": (100, 0, 0), "C": (55, -37, -50), "M": (48, 74, -3), "Y": (89, -5, 93)}


def ink_lab(inks):
    """Inks that mix as no inks do, but that are easy to write down; black covers all."""
    if "K" in inks:
        return 0, 0, 0
    return tuple(np.mean([INKS[ink] for ink in inks or [""]], 0))


def cmyk_profile():
    """One whose table knows only whether there is an ink; ICC.1:2001-04, section 6.5.8."""
    corners = [
        "".join(ink for ink, there in zip("CMYK", bits, strict=True) if there)
        for bits in np.ndindex(2, 2, 2, 2)
    ]
    colors = [
        (round(L * 2.55), round(a) + 128, round(b) + 128) for L, a, b in map(ink_lab, corners)
    ]
    ramp = bytes(range(256))
    head = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    table = head + ramp * 4 + bytes(np.array(colors, np.uint8)) + ramp * 3
    return profile(b"CMYK", b"Lab ", b"prtr", wtpt=xyz_tag(*WHITE_D50), A2B0=table)


def filled(mode, pixel, form="PNG", size=(16, 16), **options):
    """What is read of an image of one color."""
    found = np.asarray(read_image(saved(Image.new(mode, size, pixel), form, **options)))
    return found.reshape(-1, 3).mean(0).tolist()


@pytest.mark.parametrize("space", PRIMARIES)
@pytest.mark.parametrize("pixel", [(200, 100, 50), (110, 150, 120), (128, 128, 128), (255, 0, 0)])
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_color_profile_is_converted_to_srgb(space, pixel, form):
    columns = PRIMARIES[space]
    expected = srgb_of_xyz(columns.T @ (np.array(pixel) / 255) ** (563 / 256))
    exact = {"lossless": True} if form == "WEBP" else {}
    found = filled("RGB", pixel, form, icc_profile=rgb_profile(columns, 563 / 256), **exact)
    assert found == pytest.approx(expected, abs=4 if form == "JPEG" else 2)
    assert max(np.abs(np.array(pixel) - found)) > 4 or pixel in [(128, 128, 128), (255, 0, 0)]


def test_gray_image_with_gray_or_rgb_profile():
    linear = profile(b"GRAY", wtpt=xyz_tag(*WHITE_D50), kTRC=gamma_tag(1))
    expected = srgb_of_xyz(WHITE_D50 * 128 / 255)
    assert filled("L", 128, icc_profile=linear) == pytest.approx(expected, abs=2)
    steep = rgb_profile(PRIMARIES["Display P3"], 1)
    assert filled("L", 128, icc_profile=steep) == pytest.approx(expected, abs=2)


@pytest.mark.parametrize("inks", ["", "C", "M", "Y", "CM", "MY", "K"])
def test_cmyk_profile_is_applied(inks):
    pixel = tuple(255 * (ink in inks) for ink in "CMYK")
    found = filled("CMYK", pixel, "JPEG", quality=100, icc_profile=cmyk_profile())
    assert found == pytest.approx(srgb_of_lab(*ink_lab(inks)), abs=6)


def test_profile_of_palette_and_transparent_images():
    columns = PRIMARIES["Adobe RGB"]
    expected = srgb_of_xyz(columns.T @ (np.array([110, 150, 120]) / 255) ** 2.2)
    adobe = rgb_profile(columns)
    palette = Image.new("RGB", (4, 4), (110, 150, 120)).quantize(2)
    found = np.asarray(read_image(saved(palette, icc_profile=adobe)))[0, 0].tolist()
    assert found == pytest.approx(expected, abs=2)
    found = filled("RGBA", (110, 150, 120, 128), icc_profile=adobe)
    assert found == pytest.approx(expected * 128 / 255 + 127, abs=2)


def test_profile_is_applied_to_a_shrunk_jpeg():
    content = saved(
        Image.new("CMYK", (1600, 1200), (255, 0, 0, 0)), "JPEG", icc_profile=cmyk_profile()
    )
    image = read_image(content, shrink_to=64)
    assert image.width < 1600
    assert image.getpixel((9, 9)) == pytest.approx(srgb_of_lab(*INKS["C"]), abs=6)


def test_srgb_profile_changes_nothing():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    content = saved(Image.fromarray(pattern()), icc_profile=srgb)
    np.testing.assert_array_equal(np.asarray(read_image(content)), pattern())


P3 = rgb_profile(PRIMARIES["Display P3"])


@pytest.mark.parametrize(
    "unfit",
    [
        P3[:200],
        P3[:128] + b"\xff" * (len(P3) - 128),
        b"\0" * len(P3),
        rgb_profile(np.zeros((3, 3))),  # all is black
        profile(b"GRAY", wtpt=xyz_tag(*WHITE_D50), kTRC=gamma_tag(1)),
        cmyk_profile(),
    ],
)
def test_unusable_profile_is_ignored(unfit):
    content = saved(Image.fromarray(pattern()), icc_profile=unfit)
    np.testing.assert_array_equal(np.asarray(read_image(content)), pattern())


def test_cmyk_image_ignores_an_rgb_profile():
    found = filled("CMYK", (0, 255, 255, 0), "JPEG", icc_profile=P3)
    assert found == pytest.approx([255, 0, 0], abs=6)


def test_profile_cache_is_bounded_and_thread_safe():
    contents = [
        saved(Image.fromarray(pattern()), icc_profile=rgb_profile(columns, 1.8 + step / 40))
        for columns in PRIMARIES.values()
        for step in range(15)
    ]
    alone = [read_image(content).tobytes() for content in contents]
    assert len(set(alone)) == len(contents)
    together = [[], [], [], []]

    def read(found):
        found.extend(read_image(content).tobytes() for content in contents)

    threads = [threading.Thread(target=read, args=(found,)) for found in together]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == [alone] * 4
    assert pixels._cached_transform.cache_info().currsize < len(contents)
