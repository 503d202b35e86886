"""The description in XMP sidecar files, as photo programs read and write them.

Only ``dc:description`` changes: its position is found with Expat and the new text is spliced into
the bytes of the file, so that prefixes, comments and padding of other programs stay as they are.
Standard: XMP specification part 1 (ISO 16684-1).
"""

import codecs
import re
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from captioning.bulk.writers.machine_text import is_machine_text
from captioning.errors import OutputError

_SEPARATOR = "\x01"  # XML text cannot contain it
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_DC = "http://purl.org/dc/elements/1.1/"
_XML = "http://www.w3.org/XML/1998/namespace"
_ROOT = (_RDF, "RDF")
_ITEM = (_RDF, "li")
_DESCRIPTION = (_DC, "description")
_NOT_IN_XML = re.compile("[^\t\n\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAG = re.compile(rb"<(?:[^<>\"']|\"[^\"]*\"|'[^']*')*>")
_HEADER = re.compile(rb"\s*<\?xpacket\s+begin=.*?\?>", re.DOTALL)  # old ones are not UTF-8
_EMPTY = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
</rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>""".encode()
_REPAIR = "Repair the file or move it away."

_Name = tuple[str, str]
"""Namespace and local name."""
_Splice = tuple[int, int, bytes]
"""Start, end and replacement of a range of bytes."""


def clean_caption(caption: str) -> str:
    """Return a caption without characters that XML does not allow, with line feeds as line ends.

    Raises:
        OutputError: No text is left.
    """
    text = _NOT_IN_XML.sub("", caption.replace("\r\n", "\n").replace("\r", "\n")).strip()
    if not text:
        raise OutputError(f"the caption {caption!r} contains no text.")
    return text


def read_description(packet: bytes) -> str | None:
    """Return ``dc:description`` of an XMP packet: the default language, else any other.

    Texts that cameras and programs write count as none.

    Raises:
        OutputError: The packet is not valid XMP.
    """
    scan = _scan(_decode_packet(packet)[1])
    found: list[str] = []
    for description in scan.descriptions:
        items = sorted(description.items, key=lambda item: item.language != "x-default")
        found += ["".join(element.text).strip() for element in (*items, description)]
    texts = [*found, *scan.attribute_texts]
    return next((text for text in texts if not is_machine_text(text)), None)


def replace_description(packet: bytes, caption: str) -> bytes:
    """Return an XMP packet with another ``dc:description``; a new one if ``packet`` is empty.

    Everything else in the packet stays, including descriptions in other languages.

    Raises:
        OutputError: The packet is not valid XMP, or the caption contains no text.
    """
    packet, caption = packet or _EMPTY, clean_caption(caption)
    header, data, encoding = _decode_packet(packet)
    scan = _scan(data)
    splices = list(scan.attributes)
    for number, old in enumerate(scan.descriptions):
        translations = [item for item in old.items if item.language not in ("", "x-default")]
        kept = b"".join(data[item.start : item.end] for item in translations)
        new = b"" if number else _format_description(caption, kept)
        splices.append((old.start, old.end, new))
    if not scan.descriptions:
        node = f'<rdf:Description xmlns:rdf="{_RDF}" rdf:about={quoteattr(scan.about)}>\n'
        element = _format_description(caption)
        splices.append(scan.append_node(node.encode() + element + b"\n</rdf:Description>\n"))
    for start, end, new in sorted(splices, reverse=True):
        data = data[:start] + new + data[end:]
    return header + data.decode().encode(encoding)


def _decode_packet(packet: bytes) -> tuple[bytes, bytes, str]:
    """Return the packet header, the XML as UTF-8, and the encoding of the file."""
    header, encoding = b"", "utf-8"
    if packet.startswith((codecs.BOM_UTF16_LE, b"<\0")):
        encoding = "utf-16-le"
    elif packet.startswith((codecs.BOM_UTF16_BE, b"\0<")):
        encoding = "utf-16-be"
    else:
        found = _HEADER.match(packet)
        header = found.group() if found else b""
        packet = packet[len(header) :].rstrip(b"\0")
    try:
        return header, packet.decode(encoding).encode(), encoding
    except UnicodeError as error:
        raise OutputError(f"it is not {encoding} ({error}). {_REPAIR}") from error


def _format_description(caption: str, translations: bytes = b"") -> bytes:
    """Return a ``dc:description`` element that declares its own prefixes."""
    start = f'<dc:description xmlns:dc="{_DC}"><rdf:Alt xmlns:rdf="{_RDF}">'
    item = f'<rdf:li xml:lang="x-default">{escape(caption)}</rdf:li>'
    return (start + item).encode() + translations + b"</rdf:Alt></dc:description>"


@dataclass
class _Element:
    """A ``dc:description`` element or one of its languages, and its byte range."""

    start: int
    language: str = ""
    end: int = 0
    text: list[str] = field(default_factory=list)
    items: list["_Element"] = field(default_factory=list)
    """The languages of a description."""


@dataclass
class _Scan:
    """Expat handlers that collect the descriptions of a packet."""

    data: bytes
    parser: expat.XMLParserType
    path: list[tuple[_Name, int, bytes]] = field(default_factory=list)
    """Open elements from ``rdf:RDF`` on: name, position, start tag."""
    root: tuple[int, int, bytes] | None = None
    """Positions of the end tag and the start tag of ``rdf:RDF``, and its start tag."""
    about: str = ""
    descriptions: list[_Element] = field(default_factory=list)
    attributes: list[_Splice] = field(default_factory=list)
    """Removals of ``dc:description`` attributes, the short form that RDF allows."""
    attribute_texts: list[str] = field(default_factory=list)

    def start(self, full_name: str, attributes: dict[str, str]) -> None:
        name = _split_name(full_name)
        if not self.path and (name != _ROOT or self.root is not None):
            return
        position = self.parser.CurrentByteIndex
        tag = _TAG.match(self.data, position)
        if tag is None:
            raise OutputError(
                f"its XMP is damaged: the tag at byte {position} is not closed. {_REPAIR}"
            )
        self.path.append((name, position, tag.group()))
        if len(self.path) == 2:
            self._read_attributes(position, tag.group(), attributes)
        elif len(self.path) == 3 and name == _DESCRIPTION:
            self.descriptions.append(_Element(position))
        elif self._at_item():
            language = attributes.get(f"{_XML}{_SEPARATOR}lang{_SEPARATOR}xml", "").lower()
            self.descriptions[-1].items.append(_Element(position, language))

    def end(self, full_name: str) -> None:
        if not self.path:
            return
        name, position, tag = self.path[-1]
        if tag.endswith(b"/>"):
            end = position + len(tag)
        else:
            end = self.data.index(b">", self.parser.CurrentByteIndex) + 1
        if len(self.path) == 1:
            self.root = (self.parser.CurrentByteIndex, position, tag)
        elif len(self.path) == 3 and name == _DESCRIPTION:
            self.descriptions[-1].end = end
        elif self._at_item():
            self.descriptions[-1].items[-1].end = end
        self.path.pop()

    def characters(self, text: str) -> None:
        if len(self.path) == 3 and self.path[2][0] == _DESCRIPTION:
            self.descriptions[-1].text.append(text)
        elif self._at_item():
            self.descriptions[-1].items[-1].text.append(text)

    def refuse_doctype(self, *_: object) -> None:
        raise OutputError(f"its XMP declares a document type, which XMP does not use. {_REPAIR}")

    def append_node(self, node: bytes) -> _Splice:
        """Return the splice that adds a node at the end of ``rdf:RDF``."""
        assert self.root is not None
        end, position, tag = self.root
        if not tag.endswith(b"/>"):
            return end, end, node
        name = tag[1:-2].split()[0]
        opened = tag[:-2] + b">\n" + node + b"</" + name + b">"
        return position, position + len(tag), opened

    def _at_item(self) -> bool:
        """Return whether the current element is one language of a description."""
        names = [name for name, _, _ in self.path]
        return len(names) == 5 and names[2] == _DESCRIPTION and names[4] == _ITEM

    def _read_attributes(self, position: int, tag: bytes, attributes: dict[str, str]) -> None:
        for full_name, value in attributes.items():
            if _split_name(full_name) in ((_RDF, "about"), ("", "about")):
                self.about = self.about or value
            if _split_name(full_name) == _DESCRIPTION:
                prefix = full_name.split(_SEPARATOR)[2].encode()
                pattern = rb"\s+" + re.escape(prefix) + rb":description\s*=\s*(\"[^\"]*\"|'[^']*')"
                self.attribute_texts.append(value.strip())
                self.attributes += [
                    (position + match.start(), position + match.end(), b"")
                    for match in re.finditer(pattern, tag)
                ]


def _split_name(full_name: str) -> _Name:
    parts = full_name.split(_SEPARATOR)
    return (parts[0], parts[1]) if len(parts) > 1 else ("", parts[0])


def _scan(data: bytes) -> _Scan:
    """Parse XML without a document type, so that entities cannot expand.

    Raises:
        OutputError: It is not valid XML, or not XMP.
    """
    parser = expat.ParserCreate("utf-8", _SEPARATOR)
    parser.namespace_prefixes = True
    scan = _Scan(data, parser)
    parser.StartElementHandler = scan.start
    parser.EndElementHandler = scan.end
    parser.CharacterDataHandler = scan.characters
    parser.StartDoctypeDeclHandler = scan.refuse_doctype
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise OutputError(f"its XMP is damaged: {error}. {_REPAIR}") from error
    if scan.root is None:
        raise OutputError(f"its XMP has no rdf:RDF element. {_REPAIR}")
    return scan
