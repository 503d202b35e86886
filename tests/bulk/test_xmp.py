"""Descriptions in .xmp files: reading, and writing without touching anything else."""

import pytest
from image_files import descriptions_in, xmp

from captioning.bulk.writers.xmp import clean_caption, read_description, replace_description
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
def test_xmp_description_is_read_and_replaced_alone(name):
    property_, old, others = PROPERTIES[name]
    assert read_description(xmp(property_)) == old
    packet = replace_description(xmp(property_), "new < & >")
    assert read_description(packet) == "new < & >"
    assert descriptions_in(packet) == {"x-default": "new < & >", **others}
    before, after = xmp("{here}").split(b"{here}" if property_ else b"</rdf:RDF>")
    assert packet.startswith(before.replace(b"{here}", b""))
    assert packet.endswith(after)


def test_xmp_description_attribute_is_replaced():
    with_attribute = xmp().replace(b"odd:rating", b"d:description = 'a &gt; b'\n odd:rating")
    assert read_description(with_attribute) == "a > b"
    packet = replace_description(with_attribute, "new")
    assert descriptions_in(packet) == {"x-default": "new"}
    assert b"d:description =" not in packet
    assert b'odd:rating="&gt;5&lt;"' in packet.replace(b"'", b'"')


@pytest.mark.parametrize("end", ["/>", "></r:RDF>"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_xmp_without_properties_is_filled(end, encoding):
    bare = (BARE.format("")[:-1] + end).encode(encoding)
    assert read_description(bare) is None
    text = replace_description(bare, "größer 🐶").decode(encoding)
    assert descriptions_in(text.encode()) == {"x-default": "größer 🐶"}
    assert text.startswith(BARE.format("")[:-1])


def test_new_xmp_is_valid():
    packet = replace_description(b"", "größer & <größer>")
    assert descriptions_in(packet) == {"x-default": "größer & <größer>"}


BROKEN = {
    "no XML": (b"not xml", "damaged"),
    "cut": (xmp()[:300], "damaged"),
    "no RDF": (b"<a/>", "no rdf:RDF"),
    "wrong bytes": (xmp().replace(b"Ein", b"\xff"), "not utf-8"),
    "document type": (
        b'<!DOCTYPE a [<!ENTITY b "bbb"><!ENTITY c "&b;&b;">]>' + xmp().partition(b"?>")[2],
        "document type",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_damaged_xmp_is_refused(name):
    packet, reason = BROKEN[name]
    for call in (read_description, lambda packet: replace_description(packet, "a dog")):
        with pytest.raises(OutputError, match=rf"{reason}.*\. Repair"):
            call(packet)


@pytest.mark.parametrize(
    ("caption", "cleaned"),
    [
        ("bell\a and \0 null \x9f", "bell and  null"),
        ("one\r\ntwo\rthree\nfour\tfive", "one\ntwo\nthree\nfour\tfive"),
        ("half a pair \ud83d and \uffff", "half a pair  and"),
        ("  ]]> &amp; {x} </rdf:li>  ", "]]> &amp; {x} </rdf:li>"),
    ],
)
def test_clean_caption_removes_what_xml_excludes(caption, cleaned):
    assert clean_caption(caption) == cleaned
    assert descriptions_in(replace_description(b"", caption)) == {"x-default": cleaned}


@pytest.mark.parametrize("caption", ["", " \n", "\0\x1b"])
def test_caption_without_text_is_refused(caption):
    with pytest.raises(OutputError, match="contains no text"):
        replace_description(b"", caption)
