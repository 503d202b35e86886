"""XMP packets that hold a description already, sidecars, and which description is read."""

import shutil

import pytest
from made_photos import (
    XMP_HEADER,
    datasets,
    descriptions_in,
    encoded,
    exiftool,
    resource,
    segment,
    with_segments,
    xmp,
)
from PIL import Image, PngImagePlugin

from captioning.errors import OutputError
from captioning.metadata import embed_caption, read_caption, write_xmp_sidecar

ALT = "<d:description><rdf:Alt>{}</rdf:Alt></d:description>"
DEFAULT = '<rdf:li xml:lang="x-default">old</rdf:li>'
GERMAN = '<rdf:li xml:lang="de">alt &amp; "gut"</rdf:li>'
BARE = '<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"{}>'
PROPERTIES = {
    "none": ("", None, {}),
    "default": (ALT.format(DEFAULT), "old", {}),
    "two languages": (ALT.format(GERMAN + DEFAULT), "old", {"de": 'alt & "gut"'}),
    "another language": (ALT.format(GERMAN), 'alt & "gut"', {"de": 'alt & "gut"'}),
    "plain text": ("<d:description>old</d:description>", "old", {}),
    "marked-up text": ("<d:description>o<!-- no -->l<![CDATA[d]]></d:description>", "old", {}),
    "blank": (ALT.format('<rdf:li xml:lang="x-default"> </rdf:li>'), None, {}),
    "empty": ("<d:description/>", None, {}),
    "empty alternatives": ("<d:description><rdf:Alt/></d:description>", None, {}),
    "twice": (2 * ALT.format(DEFAULT), "old", {}),
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_a_description_in_xmp_is_read_and_replaced_alone(tmp_path, name):
    property_, old, others = PROPERTIES[name]
    path = tmp_path / "photo.xmp"
    path.write_bytes(xmp(property_))
    assert read_caption(path) == old
    write_xmp_sidecar(path, "new < & >")
    assert read_caption(path) == "new < & >"
    assert descriptions_in(path.read_bytes()) == {"x-default": "new < & >", **others}
    before, after = xmp("{here}").split(b"{here}" if property_ else b"</rdf:RDF>")
    assert path.read_bytes().startswith(before.replace(b"{here}", b""))
    assert path.read_bytes().endswith(after)


def test_a_description_among_the_attributes_is_read_and_replaced(tmp_path):
    path = tmp_path / "photo.xmp"
    with_attribute = xmp().replace(b"odd:rating", b"d:description = 'a &gt; b'\n odd:rating")
    path.write_bytes(with_attribute)
    assert read_caption(path) == "a > b"
    write_xmp_sidecar(path, "new")
    assert descriptions_in(path.read_bytes()) == {"x-default": "new"}
    assert b"d:description =" not in path.read_bytes()
    assert b'odd:rating="&gt;5&lt;"' in path.read_bytes().replace(b"'", b'"')


@pytest.mark.parametrize("end", ["/>", "></r:RDF>"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_a_packet_without_properties_and_in_any_encoding_is_filled(tmp_path, end, encoding):
    path = tmp_path / "photo.xmp"
    path.write_bytes((BARE.format("")[:-1] + end).encode(encoding))
    assert read_caption(path) is None
    write_xmp_sidecar(path, "größer 🐶")
    text = path.read_bytes().decode(encoding)
    assert descriptions_in(text.encode()) == {"x-default": "größer 🐶"}
    assert text.startswith(BARE.format("")[:-1])


def test_a_new_sidecar_is_read_by_others(tmp_path):
    path = tmp_path / "new folder" / "photo.xmp"
    write_xmp_sidecar(path, "größer & <größer>")
    assert descriptions_in(path.read_bytes()) == {"x-default": "größer & <größer>"}
    assert path.stat().st_mode & 0o777 == 0o644
    if shutil.which("exiftool"):
        (found,) = exiftool(path)
        assert found["XMP-dc:Description"] in (
            "größer & <größer>",
            {"x-default": "größer & <größer>"},
        )


BROKEN = {
    "no XML": (b"not xml", "broken"),
    "cut": (xmp()[:300], "broken"),
    "no RDF": (b"<a/>", "no rdf:RDF"),
    "empty file": (b"", "broken"),
    "wrong bytes": (xmp().replace(b"Ein", b"\xff"), "not utf-8"),
    "document type": (
        b'<!DOCTYPE a [<!ENTITY b "bbb"><!ENTITY c "&b;&b;">]>' + xmp().partition(b"?>")[2],
        "document type",
    ),
    "too large": (xmp().replace(b" " * 40, b" " * 17_000_000), "at most"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_packet_is_refused_and_kept(tmp_path, name):
    packet, complaint = BROKEN[name]
    path = tmp_path / "photo.xmp"
    path.write_bytes(packet)
    with pytest.raises(OutputError, match=rf"cannot be changed\. .*{complaint}.*Mend it"):
        write_xmp_sidecar(path, "a dog")
    with pytest.raises(OutputError, match=rf"cannot be read\. .*{complaint}"):
        read_caption(path)
    assert path.read_bytes() == packet
    assert list(tmp_path.iterdir()) == [path]


def test_xmp_is_read_before_iptc_and_iptc_before_exif(tmp_path):
    path = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x010E] = "in exif"
    iptc = resource(0x0404, datasets((2, 120, "in iptc, größer".encode("latin-1"))))
    packet = xmp(ALT.format(DEFAULT))
    jpeg = encoded("JPEG", exif=exif.tobytes())
    shown = []
    for parts in (
        [segment(0xED, b"Photoshop 3.0\0" + iptc), segment(0xE1, XMP_HEADER + packet)],
        [segment(0xED, b"Photoshop 3.0\0" + iptc), segment(0xE1, XMP_HEADER + xmp())],
        [segment(0xE1, XMP_HEADER + xmp())],
    ):
        path.write_bytes(with_segments(jpeg, *parts))
        shown.append(read_caption(path))
    assert shown == ["old", "in iptc, größer", "in exif"]


@pytest.mark.parametrize(
    "text",
    [
        "OLYMPUS DIGITAL CAMERA",
        "SONY DSC",
        "Kodak Digital Still Camera",
        r"DCIM\100GOPRO\G1.JPG",
        "  ",
    ],
)
def test_what_a_camera_writes_of_itself_is_no_description(tmp_path, text):
    path = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x010E] = text
    path.write_bytes(encoded("JPEG", exif=exif.tobytes()))
    assert read_caption(path) is None
    exif[0x010E] = "a digital camera on a table"
    path.write_bytes(encoded("JPEG", exif=exif.tobytes()))
    assert read_caption(path) == "a digital camera on a table"


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_a_photo_without_description_has_none(tmp_path, format_):
    path = tmp_path / f"photo.{format_.lower()}"
    path.write_bytes(encoded(format_))
    assert read_caption(path) is None


def test_a_png_text_is_read_and_other_languages_of_it_are_kept(tmp_path):
    path = tmp_path / "photo.png"
    info = PngImagePlugin.PngInfo()
    info.add_itxt("Description", "ein Hund", lang="de")
    info.add_text("Description", "a dog, größer", zip=True)
    info.add_text("Description", "a second one of the same language")
    path.write_bytes(encoded("PNG", pnginfo=info))
    assert read_caption(path) == "a dog, größer"
    embed_caption(path, path, "a cat")
    assert path.read_bytes().count(b"Description\0") == 2
    assert b"Description\0\0\0de\0\0ein Hund" in path.read_bytes()
    assert b"tEXtDescription\0a cat" in path.read_bytes()
