"""A caption in a photo: every reader finds it, the pixels and all other metadata stay."""

import hashlib
import io
import shutil
import struct
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_photos import (
    MAKER_NOTE,
    RDF,
    XMP_HEADER,
    chunks_of,
    datasets,
    descriptions_in,
    encoded,
    exif_block,
    exif_description_of,
    exiftool,
    image,
    iptc_of,
    payload_of,
    pixels_of,
    resource,
    riff_chunks_of,
    segment,
    segments_of,
    with_segments,
    xmp,
    xmp_of,
)
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from captioning.metadata import embed_caption, read_caption

CAPTION = 'a dog & a "cat" <jump>,\nit\'s größer 🐶'
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
IPTC = datasets((2, 0, b"\0\2"), (2, 25, b"keyword"), (2, 116, b"(c) me"))
LATIN = datasets((2, 0, b"\0\2"), (2, 90, "Köln".encode("latin-1")), (2, 202, b"\xff\xfe\0"))
PHOTOSHOP = b"Photoshop 3.0\0"
BLOCK = exif_block()[0]
JPEG = encoded("JPEG", icc_profile=PROFILE, comment=b"a comment")
RICH = with_segments(
    JPEG,
    segment(0xE1, b"Exif\0\0" + BLOCK),
    segment(0xE1, XMP_HEADER + xmp()),
    segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + b"0" * 80),
    segment(0xED, PHOTOSHOP + resource(0x03ED, b"\1" * 16) + resource(0x0404, IPTC, b"odd")),
)


def mpo():
    file = io.BytesIO()
    others = [image(size=(16, 16)), image("L", size=(24, 8))]
    image().save(file, "MPO", save_all=True, append_images=others)
    return file.getvalue()


def png(mode="RGB", **texts):
    info = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        info.add_text(key, text, zip=len(text) > 20)
    return encoded("PNG", mode, pnginfo=info, icc_profile=PROFILE, exif=BLOCK)


def animation(format_):
    frames = [image("RGBA"), image("RGBA").transpose(Image.Transpose.ROTATE_180)]
    file = io.BytesIO()
    frames[0].save(file, format_, save_all=True, append_images=frames[1:], lossless=True)
    return file.getvalue()


def pages():
    file = io.BytesIO()
    others = [image("L")]
    image().save(file, "TIFF", save_all=True, append_images=others, compression="tiff_lzw")
    return file.getvalue()


PHOTOS = {
    "plain.jpg": JPEG,
    "rich.jpg": RICH,
    "progressive.jpg": encoded("JPEG", progressive=True),
    "grey.jpg": encoded("JPEG", "L"),
    "cmyk.jpg": encoded("JPEG", "CMYK"),
    "several.mpo": mpo(),
    "restarts.jpg": encoded("JPEG", restart_marker_blocks=1),
    "trailer.jpg": RICH + b"trailing \xff\xd8\xff bytes",
    "plain.png": encoded("PNG"),
    "rich.png": png("RGBA", Description="an old one", Author="me", Comment="long " * 20),
    "animated.png": animation("PNG"),
    "lossy.webp": encoded("WEBP"),
    "lossless.webp": encoded("WEBP", lossless=True),
    "alpha.webp": encoded("WEBP", "RGBA", lossless=True),
    "lossy-alpha.webp": encoded("WEBP", "RGBA"),
    "rich.webp": encoded("WEBP", icc_profile=PROFILE, exif=BLOCK, xmp=xmp()),
    "animated.webp": animation("WEBP"),
    "pages.tif": pages(),
    "big-endian.tif": encoded("TIFF", "L", big_endian=True),
}


@pytest.fixture(params=PHOTOS)
def photo(request, tmp_path):
    path = tmp_path / request.param
    path.write_bytes(PHOTOS[request.param])
    return path


@pytest.fixture
def make(tmp_path):
    """Write a photo, and return it with the path of a copy to come."""

    def made(data, name="photo.jpg"):
        path = tmp_path / name
        path.write_bytes(data)
        return path, tmp_path / f"copy-{name}"

    return made


def test_pillow_reads_the_caption_and_the_same_pixels(photo, tmp_path):
    copy = tmp_path / f"copy{photo.suffix}"
    embed_caption(photo, copy, CAPTION)
    assert photo.read_bytes() == PHOTOS[photo.name]
    assert pixels_of(copy) == pixels_of(photo)
    assert exif_description_of(copy) == CAPTION
    assert descriptions_in(xmp_of(copy))["x-default"] == CAPTION
    if photo.suffix in (".jpg", ".tif"):
        assert iptc_of(copy)[2, 120] == CAPTION.encode()
    if photo.suffix == ".png":
        with Image.open(copy) as image:
            assert image.text["Description"] == CAPTION
    assert read_caption(copy) == CAPTION


def test_pillow_own_xmp_reader_reads_the_caption(tmp_path, make):
    pytest.importorskip("defusedxml")
    photo, copy = make(RICH)
    embed_caption(photo, copy, CAPTION)
    with Image.open(copy) as image:
        nodes = image.getxmp()["xmpmeta"]["RDF"]["Description"]
    assert nodes[1]["description"]["Alt"]["li"]["text"] == CAPTION


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="needs exiftool")
def test_exiftool_reads_the_caption_and_finds_all_else_the_same(photo, tmp_path):
    copy = tmp_path / "copies" / photo.name
    embed_caption(photo, copy, CAPTION)
    before, after = exiftool(photo, copy)
    places = ["IFD0:ImageDescription", "XMP-dc:Description"]
    places += ["IPTC:Caption-Abstract"] if photo.suffix in (".jpg", ".mpo", ".tif") else []
    places += ["PNG:Description"] if photo.suffix == ".png" else []
    for place in places:
        assert after.pop(place) in (CAPTION, {"x-default": CAPTION}), place
        before.pop(place, None)
    assert changed(before, after) <= {
        "SourceFile",
        "IPTC:CodedCharacterSet",
        "IPTC:ApplicationRecordVersion",
        "File:CurrentIPTCDigest",
        "File:ExifByteOrder",
        "File:FileType",  # "WEBP" becomes "Extended WEBP"
        "MPF0:MPImageLength",
        "MPImage1:MPImageLength",
        "MPImage2:MPImageStart",
        "MPImage3:MPImageStart",
        *(name for name in {*before, *after} if name.startswith("System:")),
        *(name for name in after if name.startswith("RIFF:") and photo.name != "rich.webp"),
    }


def changed(before, after):
    return {name for name in {*before, *after} if before.get(name) != after.get(name)}


def test_the_scans_and_the_other_segments_of_a_jpeg_stay_byte_for_byte(make):
    photo, copy = make(PHOTOS["trailer.jpg"])
    embed_caption(photo, copy, CAPTION)
    (old, old_rest), (new, new_rest) = (segments_of(path.read_bytes()) for path in (photo, copy))
    assert new_rest == old_rest
    assert [marker for marker, _ in new] == [marker for marker, _ in old]
    differing = [one[:4] for (_, one), (_, other) in zip(old, new, strict=True) if one != other]
    assert differing == [b"Exif", b"http", b"Phot"]


@pytest.mark.parametrize("order", [">", "<"])
def test_exif_grows_at_its_end_so_that_maker_note_and_thumbnail_stay_in_place(make, order):
    block, note_at, thumbnail = exif_block(order)
    photo, copy = make(with_segments(encoded("JPEG"), segment(0xE1, b"Exif\0\0" + block)))
    embed_caption(photo, copy, CAPTION)
    new = payload_of(copy.read_bytes(), b"Exif\0\0")
    assert new[:4] + new[8 : len(block)] == block[:4] + block[8:]
    with Image.open(copy) as image:
        exif = image.getexif()
        assert dict(exif) == {
            0x010E: exif[0x010E],
            0x010F: "Maker of camera",
            0x0112: 6,
            0x8769: 50,
        }
        assert exif.get_ifd(0x8769) == {0x927C: MAKER_NOTE}
        second = exif.get_ifd(ExifTags.IFD.IFD1)
    (start,) = struct.unpack(order + "I", new[4:8])
    tags = [struct.unpack(order + "H", new[start + 2 + 12 * n :][:2])[0] for n in range(4)]
    assert tags == [0x010E, 0x010F, 0x0112, 0x8769]  # TIFF wants them in ascending order
    assert new[note_at : note_at + len(MAKER_NOTE)] == MAKER_NOTE
    assert new[second[0x0201] :][: second[0x0202]] == thumbnail


def test_a_second_caption_takes_the_place_of_the_first(photo):
    embed_caption(photo, photo, "the first")
    size = photo.stat().st_size
    embed_caption(photo, photo, "another 1")
    assert read_caption(photo) == "another 1"
    assert exif_description_of(photo) == "another 1"
    assert list(descriptions_in(xmp_of(photo)).values()) == ["another 1"]
    assert b"the first" not in photo.read_bytes() or photo.suffix == ".tif"
    assert photo.stat().st_size == size or photo.suffix == ".tif"


@pytest.mark.parametrize("caption", ["abc", "ab", "abcd"])
def test_a_caption_so_short_that_it_stands_in_the_directory_is_read_back(make, caption):
    photo, copy = make(RICH)
    embed_caption(photo, copy, CAPTION)
    embed_caption(copy, copy, caption)
    assert exif_description_of(copy) == caption


def test_other_xmp_is_kept_byte_for_byte(make):
    photo, copy = make(RICH)
    embed_caption(photo, copy, CAPTION)
    start, end = xmp().split(b"</rdf:RDF>")
    new = xmp_of(copy)
    assert new.startswith(start)
    assert new.endswith(end)
    nodes = ET.fromstring(new[: new.rindex(b"<?xpacket")].partition(b"?>")[2].strip())[0]
    assert [node.get(f"{RDF}about") for node in nodes] == ["uuid:a&b"] * 2  # of one photo


def test_other_iptc_and_photoshop_resources_are_kept(make):
    photo, copy = make(RICH)
    embed_caption(photo, copy, "plain")
    resources = payload_of(copy.read_bytes(), PHOTOSHOP)
    iptc = IPTC + datasets((2, 120, b"plain"))
    assert resources == resource(0x03ED, b"\1" * 16) + resource(0x0404, iptc, b"odd")


def test_latin_iptc_becomes_utf8_where_the_caption_needs_the_marker(make):
    old = with_segments(encoded("JPEG"), segment(0xED, PHOTOSHOP + resource(0x0404, LATIN)))
    photo, copy = make(old)
    embed_caption(photo, copy, "größer")
    new = iptc_of(copy)
    assert new[1, 90] == b"\x1b%G"
    assert new[2, 90] == "Köln".encode()
    assert new[2, 120] == "größer".encode()
    assert new[2, 202] == b"\xff\xfe\0"  # a preview's bytes are no text
    embed_caption(photo, copy, "ASCII needs no marker")
    assert iptc_of(copy)[2, 90] == "Köln".encode("latin-1")
    assert (1, 90) not in iptc_of(copy)


def test_an_iptc_caption_ends_at_the_standard_two_thousand_bytes(make):
    photo, copy = make(JPEG)
    embed_caption(photo, copy, "ö" * 999 + "🐶🐶")
    assert iptc_of(copy)[2, 120].decode() == "ö" * 999
    assert read_caption(copy) == "ö" * 999 + "🐶🐶"


@pytest.mark.parametrize("right", [True, False])
def test_the_digest_of_iptc_is_renewed_only_where_it_was_right(make, right):
    old = hashlib.md5(IPTC).digest() if right else b"\0" * 16
    resources = PHOTOSHOP + resource(0x0404, IPTC) + resource(0x0425, old)
    photo, copy = make(with_segments(encoded("JPEG"), segment(0xED, resources)))
    embed_caption(photo, copy, "plain")
    with Image.open(copy) as image:
        found = image.info["photoshop"]
    assert found[0x0425] == (hashlib.md5(found[0x0404]).digest() if right else old)


def test_photoshop_resources_may_go_on_over_several_segments(make):
    resources = resource(0x0404, IPTC) + resource(0x040C, bytes(range(256)) * 300)
    parts = [segment(0xED, PHOTOSHOP + resources[at : at + 40000]) for at in (0, 40000)]
    photo, copy = make(with_segments(encoded("JPEG"), *parts))
    embed_caption(photo, copy, "plain")
    found = [payload for marker, payload in segments_of(copy.read_bytes())[0] if marker == 0xED]
    joined = b"".join(payload.removeprefix(PHOTOSHOP) for payload in found)
    new = resource(0x0404, IPTC + datasets((2, 120, b"plain")))
    assert joined == new + resource(0x040C, bytes(range(256)) * 300)


def test_the_padding_of_xmp_makes_room_where_a_segment_is_full(make):
    packet = xmp().replace(b" " * 40, b" " * 64700)
    assert 65000 < len(packet) < 65500
    photo, copy = make(with_segments(encoded("JPEG"), segment(0xE1, XMP_HEADER + packet)))
    embed_caption(photo, copy, "many words " * 90)
    assert descriptions_in(xmp_of(copy))["x-default"] == ("many words " * 90).strip()


def test_the_index_of_several_images_points_to_them(make):
    data = mpo()
    photo, copy = make(data, "photo.mpo")
    embed_caption(photo, copy, CAPTION * 20)
    new = copy.read_bytes()
    growth = len(new) - len(data)
    with Image.open(photo) as before, Image.open(copy) as after:
        old, now = before.mpinfo[0xB002], after.mpinfo[0xB002]
    assert [entry["Size"] for entry in now] == [
        old[0]["Size"] + growth,
        *(entry["Size"] for entry in old[1:]),
    ]
    base = new.index(b"MPF\0") + 4
    for entry in now[1:]:
        assert new[base + entry["DataOffset"] :][:3] == b"\xff\xd8\xff"


@pytest.mark.parametrize("order", [">", "<"])
def test_a_maker_note_still_points_to_the_preview_behind_the_image(make, order):
    block, note_at, _ = exif_block(order)
    exif = b"Exif\0\0" + block
    ahead = segment(0xE1, XMP_HEADER + xmp())  # what stands before it grows, too
    filler = segment(0xFE, b"x" * 65000)
    data = with_segments(encoded("JPEG"), ahead, segment(0xE1, exif), filler)
    preview = encoded("JPEG", "L")
    base = data.index(exif) + 6
    pointer = struct.pack(order + "I", len(data) - base)
    photo, copy = make(data.replace(MAKER_NOTE[:10], MAKER_NOTE[:6] + pointer) + preview)
    embed_caption(photo, copy, CAPTION)
    new = copy.read_bytes()
    base = new.index(b"Exif\0\0") + 6
    (offset,) = struct.unpack(order + "I", new[base + note_at + 6 :][:4])
    assert new[base + offset :] == preview


@pytest.mark.parametrize("name", [name for name in PHOTOS if name.endswith("png")])
def test_other_chunks_of_a_png_stay_byte_for_byte(make, name):
    photo, copy = make(PHOTOS[name], name)
    embed_caption(photo, copy, CAPTION)
    written = (b"eXIf", b"Description", b"XML:com.adobe.xmp")

    def others(path):
        return [
            (kind, data)
            for kind, data in chunks_of(path.read_bytes())
            if kind not in written and data.split(b"\0")[0] not in written
        ]

    assert others(copy) == others(photo)


def test_packed_xmp_of_a_png_is_merged(make):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp().decode(), zip=True)
    photo, copy = make(encoded("PNG", pnginfo=info), "photo.png")
    embed_caption(photo, copy, CAPTION)
    assert "Ein Título".encode() in xmp_of(copy)
    assert descriptions_in(xmp_of(copy)) == {"x-default": CAPTION}


@pytest.mark.parametrize(
    ("name", "alpha"),
    [("lossy.webp", 0), ("lossless.webp", 0), ("alpha.webp", 0x10), ("lossy-alpha.webp", 0x10)],
)
def test_a_webp_is_given_the_header_that_its_image_needs(make, name, alpha):
    photo, copy = make(PHOTOS[name], name)
    embed_caption(photo, copy, CAPTION)
    data = copy.read_bytes()
    chunks = riff_chunks_of(data)
    kind, header = chunks[0]
    assert kind == b"VP8X"
    assert header[0] == alpha | 0x0C
    assert header[4:] == struct.pack("<I", 37 - 1)[:3] + struct.pack("<I", 22 - 1)[:3]
    assert [kind for kind, _ in chunks][-2:] == [b"EXIF", b"XMP "]
    assert struct.unpack("<I", data[4:8])[0] == len(data) - 8
    pixels = [chunk for chunk in riff_chunks_of(PHOTOS[name]) if chunk[0][:3] in (b"VP8", b"ALP")]
    assert [chunk for chunk in pixels if chunk[0] != b"VP8X"] == [
        chunk for chunk in chunks[1:] if chunk[0] not in (b"EXIF", b"XMP ")
    ]


def test_a_tiff_only_grows(make):
    photo, copy = make(pages(), "photo.tif")
    embed_caption(photo, copy, CAPTION)
    new = copy.read_bytes()
    assert new[:4] + new[8 : len(pages())] == pages()[:4] + pages()[8:]


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
@given(
    caption=st.text(
        st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff"),
        min_size=1,
    ).filter(str.strip),
    name=st.sampled_from(["rich.jpg", "plain.jpg", "rich.png", "rich.webp", "big-endian.tif"]),
)
def test_any_caption_comes_back_from_every_place(make, caption, name):
    photo, copy = make(PHOTOS[name], name)
    embed_caption(photo, copy, caption)
    assert read_caption(copy) == caption.strip()
    assert descriptions_in(xmp_of(copy))["x-default"] == caption.strip()
    assert exif_description_of(copy).strip() == caption.strip()
    assert pixels_of(copy) == pixels_of(photo)


@pytest.mark.parametrize(
    ("caption", "written"),
    [
        ("bell\a and \0 null \x9f", "bell and  null"),
        ("one\r\ntwo\rthree\nfour\tfive", "one\ntwo\nthree\nfour\tfive"),
        ("half a pair \ud83d and \uffff", "half a pair  and"),
        ("  ]]> &amp; {x} </rdf:li>  ", "]]> &amp; {x} </rdf:li>"),
    ],
)
def test_what_xml_cannot_hold_is_left_out(make, caption, written):
    photo, copy = make(RICH)
    embed_caption(photo, copy, caption)
    assert descriptions_in(xmp_of(copy))["x-default"] == written
    assert exif_description_of(copy) == written
    assert iptc_of(copy)[2, 120].decode() == written
