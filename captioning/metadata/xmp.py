"""The description in an XMP packet: read, and written without touching the rest of the packet.

Expat tells where in the packet each element stands, and the new description is spliced in there:
every other byte stays (prefixes, comments, padding). XMP specification part 1, ISO 16684-1.
"""

import codecs
import re
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from captioning.errors import OutputError

MAX_BYTES = 16 * 1024 * 1024
"""A larger packet is refused before it is parsed."""

_SPLIT = "\x01"  # no XML text can hold it, so that no name can be forged
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_DC = "http://purl.org/dc/elements/1.1/"
_XML = "http://www.w3.org/XML/1998/namespace"
_ROOT = (_RDF, "RDF")
_DESCRIPTION = (_DC, "description")
_UNWRITABLE = re.compile("[^\t\n\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAG = re.compile(rb"<(?:[^<>\"']|\"[^\"]*\"|'[^']*')*>")
_HEAD = re.compile(rb"\s*<\?xpacket\s+begin=.*?\?>", re.DOTALL)  # old ones hold no sound UTF-8
_PADDING = re.compile(rb"\s+(?=<\?xpacket\s+end)")
EMPTY = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
</rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>""".encode()
"""A packet without properties."""

_Name = tuple[str, str]  # namespace and local name
_Splice = tuple[int, int, bytes]  # from, to, what stands there instead


def writable_caption(caption: str) -> str:
    """Return a caption without what XML cannot hold: control characters go, line ends are one kind.

    Raises:
        OutputError: Nothing is left.
    """
    unified = caption.replace("\r\n", "\n").replace("\r", "\n")
    text = _UNWRITABLE.sub("", unified).strip()
    if not text:
        raise OutputError(f"The caption {caption!r} has no text. Give one that has.")
    return text


def read_description(packet: bytes) -> str | None:
    """Return ``dc:description`` of a packet: the default language, else the first that has text.

    Raises:
        OutputError: The packet is broken.
    """
    scan = _scan(_opened(packet)[1])
    for description in scan.descriptions:
        items = sorted(description.items, key=lambda item: item.language != "x-default")
        texts = ["".join(item.text).strip() for item in items]
        texts.append("".join(description.text).strip())
        if text := next(filter(None, texts), None):
            return text
    return next(filter(None, scan.attribute_texts), None)


def with_description(packet: bytes | None, caption: str) -> bytes:
    """Return a packet whose ``dc:description`` is a caption; None makes a new packet.

    Descriptions marked as another language than the default are kept, as exiftool does.

    Raises:
        OutputError: The packet is broken.
    """
    head, data, codec = _opened(EMPTY if packet is None else packet)
    scan = _scan(data)
    splices = [*scan.attributes]
    for number, old in enumerate(scan.descriptions):
        kept = b"".join(data[item.start : item.stop] for item in old.items if item.is_translation)
        new = b"" if number else _element(caption, kept)
        splices.append((old.start, old.stop, new))
    if not scan.descriptions:
        node = f'<rdf:Description xmlns:rdf="{_RDF}" rdf:about={quoteattr(scan.about)}>\n'
        splices.append(scan.at_end(node.encode() + _element(caption) + b"\n</rdf:Description>\n"))
    for start, stop, new in sorted(splices, reverse=True):
        data = data[:start] + new + data[stop:]
    return head + data.decode().encode(codec)


def without_padding(packet: bytes) -> bytes:
    """Return a packet without the spaces before its end, which are there for writing in place."""
    return _PADDING.sub(b"\n", packet)


def _opened(packet: bytes) -> tuple[bytes, bytes, str]:
    """Return a packet's wrapper, its XML as UTF-8, and the encoding that it came in."""
    if len(packet) > MAX_BYTES:
        raise OutputError(f"Its XMP packet has {len(packet)} bytes; at most {MAX_BYTES} are read.")
    head, codec = b"", "utf-8"
    if packet.startswith((codecs.BOM_UTF16_LE, b"<\0")):
        codec = "utf-16-le"
    elif packet.startswith((codecs.BOM_UTF16_BE, b"\0<")):
        codec = "utf-16-be"
    else:
        found = _HEAD.match(packet)
        head = found.group() if found else b""
        packet = packet[len(head) :].rstrip(b"\0")
    try:
        return head, packet.decode(codec).encode(), codec
    except UnicodeError as error:
        raise OutputError(f"Its XMP packet is broken: it is not {codec} ({error}).") from error


def _element(caption: str, translations: bytes = b"") -> bytes:
    """Return ``dc:description`` as XML; it declares its prefixes, whatever stands around it."""
    start = f'<dc:description xmlns:dc="{_DC}"><rdf:Alt xmlns:rdf="{_RDF}">'
    item = f'<rdf:li xml:lang="x-default">{escape(caption)}</rdf:li>'
    return (start + item).encode() + translations + b"</rdf:Alt></dc:description>"


@dataclass
class _Item:
    """One language of a description, and where in the packet it stands."""

    language: str
    start: int
    stop: int = 0
    text: list[str] = field(default_factory=list)

    @property
    def is_translation(self) -> bool:
        return self.language not in ("", "x-default")


@dataclass
class _Description:
    """One ``dc:description``, and where in the packet it stands."""

    start: int
    stop: int = 0
    text: list[str] = field(default_factory=list)
    items: list[_Item] = field(default_factory=list)


@dataclass
class _Scan:
    """What Expat finds in a packet; ``path`` are the open elements from ``rdf:RDF`` on."""

    data: bytes
    parser: expat.XMLParserType
    path: list[tuple[_Name, int, bytes]] = field(default_factory=list)
    root: tuple[int, int, bytes] | None = None
    about: str = ""
    descriptions: list[_Description] = field(default_factory=list)
    attributes: list[_Splice] = field(default_factory=list)
    attribute_texts: list[str] = field(default_factory=list)

    def start(self, full_name: str, pairs: dict[str, str]) -> None:
        name = _name(full_name)
        if not self.path and (name != _ROOT or self.root is not None):
            return
        position = self.parser.CurrentByteIndex
        tag = _TAG.match(self.data, position)
        if tag is None:
            raise OutputError(f"Its XMP packet is broken: no tag ends after byte {position}.")
        self.path.append((name, position, tag.group()))
        if len(self.path) == 2:
            self._enter_node(position, tag.group(), pairs)
        elif len(self.path) == 3 and name == _DESCRIPTION:
            self.descriptions.append(_Description(position))
        elif len(self.path) == 5 and self._in_description() and name == (_RDF, "li"):
            language = pairs.get(f"{_XML}{_SPLIT}lang{_SPLIT}xml", "").lower()
            self.descriptions[-1].items.append(_Item(language, position))

    def end(self, full_name: str) -> None:
        if not self.path:
            return
        name, position, tag = self.path[-1]
        if tag.endswith(b"/>"):
            stop = position + len(tag)
        else:
            stop = self.data.index(b">", self.parser.CurrentByteIndex) + 1
        if len(self.path) == 1:
            self.root = (self.parser.CurrentByteIndex, position, tag)
        elif len(self.path) == 3 and name == _DESCRIPTION:
            self.descriptions[-1].stop = stop
        elif len(self.path) == 5 and self._in_description() and name == (_RDF, "li"):
            self.descriptions[-1].items[-1].stop = stop
        self.path.pop()

    def characters(self, text: str) -> None:
        if not self._in_description():
            return
        if len(self.path) == 3:
            self.descriptions[-1].text.append(text)
        elif len(self.path) == 5 and self.path[-1][0] == (_RDF, "li"):
            self.descriptions[-1].items[-1].text.append(text)

    def refuse_doctype(self, *_: object) -> None:
        raise OutputError("Its XMP packet declares a document type, which XMP has no use for.")

    def at_end(self, node: bytes) -> _Splice:
        """Return the splice that puts a node at the end of ``rdf:RDF``."""
        if self.root is None:
            raise OutputError("Its XMP packet is broken: it has no rdf:RDF element.")
        end, position, tag = self.root
        if not tag.endswith(b"/>"):
            return end, end, node
        name = tag[1:-2].split()[0]
        opened = tag[:-2] + b">\n" + node + b"</" + name + b">"
        return position, position + len(tag), opened

    def _in_description(self) -> bool:
        return len(self.path) >= 3 and self.path[2][0] == _DESCRIPTION

    def _enter_node(self, position: int, tag: bytes, pairs: dict[str, str]) -> None:
        """Note what a node is about, and a description in its attributes, as RDF allows."""
        for full_name, value in pairs.items():
            if _name(full_name) in ((_RDF, "about"), ("", "about")):
                self.about = self.about or value
            if _name(full_name) == _DESCRIPTION:
                prefix = full_name.split(_SPLIT)[2].encode()
                pattern = rb"\s+" + re.escape(prefix) + rb":description\s*=\s*(\"[^\"]*\"|'[^']*')"
                self.attribute_texts.append(value.strip())
                self.attributes += [
                    (position + found.start(), position + found.end(), b"")
                    for found in re.finditer(pattern, tag)
                ]


def _name(full_name: str) -> _Name:
    parts = full_name.split(_SPLIT)
    return (parts[0], parts[1]) if len(parts) > 1 else ("", parts[0])


def _scan(data: bytes) -> _Scan:
    """Parse a packet of UTF-8 without document type, so that no entity can be expanded.

    Raises:
        OutputError: It is not sound XML, or not XMP.
    """
    parser = expat.ParserCreate("utf-8", _SPLIT)
    parser.namespace_prefixes = True
    scan = _Scan(data, parser)
    parser.StartElementHandler = scan.start
    parser.EndElementHandler = scan.end
    parser.CharacterDataHandler = scan.characters
    parser.StartDoctypeDeclHandler = scan.refuse_doctype
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise OutputError(f"Its XMP packet is broken: {error}.") from error
    if scan.root is None:
        raise OutputError("Its XMP packet is broken: it has no rdf:RDF element.")
    return scan
