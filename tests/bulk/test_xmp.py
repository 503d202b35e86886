"""Descriptions in .xmp files: reading, and writing without touching anything else."""

import pytest
from image_files import descriptions_in, xmp

from captioning.bulk.writers.xmp import clean_caption, read_xmp_caption, write_xmp_caption
from captioning.errors import OutputError

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
    "text of a camera": (ALT.format('<rdf:li xml:lang="x-default">SONY DSC</rdf:li>'), None, {}),
    "empty": ("<d:description/>", None, {}),
    "empty alternatives": ("<d:description><rdf:Alt/></d:description>", None, {}),
    "twice": (2 * ALT.format(DEFAULT), "old", {}),
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_xmp_description_is_read_and_replaced_alone(tmp_path, name):
    property_, old, others = PROPERTIES[name]
    path = tmp_path / "image.xmp"
    path.write_bytes(xmp(property_))
    assert read_xmp_caption(path) == old
    write_xmp_caption(path, "new < & >")
    assert read_xmp_caption(path) == "new < & >"
    assert descriptions_in(path.read_bytes()) == {"x-default": "new < & >", **others}
    before, after = xmp("{here}").split(b"{here}" if property_ else b"</rdf:RDF>")
    assert path.read_bytes().startswith(before.replace(b"{here}", b""))
    assert path.read_bytes().endswith(after)


def test_xmp_description_attribute_is_replaced(tmp_path):
    path = tmp_path / "image.xmp"
    with_attribute = xmp().replace(b"odd:rating", b"d:description = 'a &gt; b'\n odd:rating")
    path.write_bytes(with_attribute)
    assert read_xmp_caption(path) == "a > b"
    write_xmp_caption(path, "new")
    assert descriptions_in(path.read_bytes()) == {"x-default": "new"}
    assert b"d:description =" not in path.read_bytes()
    assert b'odd:rating="&gt;5&lt;"' in path.read_bytes().replace(b"'", b'"')


@pytest.mark.parametrize("end", ["/>", "></r:RDF>"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_xmp_without_properties_is_filled(tmp_path, end, encoding):
    path = tmp_path / "image.xmp"
    path.write_bytes((BARE.format("")[:-1] + end).encode(encoding))
    assert read_xmp_caption(path) is None
    write_xmp_caption(path, "größer 🐶")
    text = path.read_bytes().decode(encoding)
    assert descriptions_in(text.encode()) == {"x-default": "größer 🐶"}
    assert text.startswith(BARE.format("")[:-1])


def test_new_xmp_file_is_valid(tmp_path):
    path = tmp_path / "new folder" / "image.xmp"
    write_xmp_caption(path, "größer & <größer>")
    assert descriptions_in(path.read_bytes()) == {"x-default": "größer & <größer>"}
    assert path.stat().st_mode & 0o777 == 0o644


BROKEN = {
    "no XML": (b"not xml", "damaged"),
    "cut": (xmp()[:300], "damaged"),
    "no RDF": (b"<a/>", "no rdf:RDF"),
    "empty file": (b"", "damaged"),
    "wrong bytes": (xmp().replace(b"Ein", b"\xff"), "not utf-8"),
    "document type": (
        b'<!DOCTYPE a [<!ENTITY b "bbb"><!ENTITY c "&b;&b;">]>' + xmp().partition(b"?>")[2],
        "document type",
    ),
    "too large": (xmp().replace(b" " * 40, b" " * 17_000_000), "the limit for XMP"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_damaged_xmp_is_refused_and_unchanged(tmp_path, name):
    packet, reason = BROKEN[name]
    path = tmp_path / "image.xmp"
    path.write_bytes(packet)
    with pytest.raises(OutputError, match=rf"cannot write .*{reason}.*Repair"):
        write_xmp_caption(path, "a dog")
    with pytest.raises(OutputError, match=rf"cannot read .*{reason}"):
        read_xmp_caption(path)
    assert path.read_bytes() == packet
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("caption", "cleaned"),
    [
        ("bell\a and \0 null \x9f", "bell and  null"),
        ("one\r\ntwo\rthree\nfour\tfive", "one\ntwo\nthree\nfour\tfive"),
        ("half a pair \ud83d and \uffff", "half a pair  and"),
        ("  ]]> &amp; {x} </rdf:li>  ", "]]> &amp; {x} </rdf:li>"),
    ],
)
def test_clean_caption_removes_what_xml_excludes(tmp_path, caption, cleaned):
    assert clean_caption(caption) == cleaned
    write_xmp_caption(tmp_path / "image.xmp", caption)
    assert descriptions_in((tmp_path / "image.xmp").read_bytes()) == {"x-default": cleaned}


@pytest.mark.parametrize("caption", ["", " \n", "\0\x1b"])
def test_caption_without_text_is_refused(tmp_path, caption):
    with pytest.raises(OutputError, match="contains no text"):
        write_xmp_caption(tmp_path / "image.xmp", caption)
    assert not list(tmp_path.iterdir())


def test_xmp_that_cannot_be_written_is_unchanged(tmp_path):
    with pytest.raises(OutputError, match="folder or a device"):
        write_xmp_caption(tmp_path, "a dog")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        write_xmp_caption(tmp_path / "file" / "image.xmp", "a dog")
