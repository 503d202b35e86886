"""Image files made by Pillow and by hand, and readers that share no code with the package."""

import io
import re
import struct
from xml.etree import ElementTree as ET

import numpy as np
from PIL import Image, IptcImagePlugin

RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
DC = "{http://purl.org/dc/elements/1.1/}"
LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
MAKER_NOTE = b"MAKER\0" + bytes(range(40)) + b"\x12\x34"
XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><!-- kept -->
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="uuid:a&amp;b" xmlns:odd="urn:odd:" odd:rating='&gt;5&lt;'
    xmlns:d="http://purl.org/dc/elements/1.1/">{property}
   <d:title><rdf:Alt><rdf:li xml:lang="x-default">Ein Título</rdf:li></rdf:Alt></d:title>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
{padding}
<?xpacket end="w"?>"""


def xmp(property_=""):
    return XMP.replace("{property}", property_).replace("{padding}", " " * 40).encode()


def image(mode="RGB", size=(37, 22)):
    bands = len(Image.new(mode, (1, 1)).getbands())
    numbers = np.random.default_rng(0).integers(0, 256, (size[1], size[0], bands), dtype=np.uint8)
    return Image.fromarray(numbers.squeeze(), mode=None) if bands != 4 else _of_four(numbers, mode)


def _of_four(numbers, mode):
    bands = [Image.fromarray(numbers[..., band]) for band in range(4)]
    return Image.merge(mode, bands)


def encoded(format_, mode="RGB", **options):
    file = io.BytesIO()
    image(mode).save(file, format_, **options)
    return file.getvalue()


def exif_block(order=">"):
    """Return EXIF with orientation, a maker note, and a thumbnail in the second directory."""
    thumbnail = io.BytesIO()
    image(size=(8, 8)).save(thumbnail, "JPEG")
    thumb = thumbnail.getvalue()
    make = b"Maker of camera\0"
    exif_at = 8 + 2 + 3 * 12 + 4
    make_at = exif_at + 2 + 12 + 4
    note_at = make_at + len(make)
    second_at = note_at + len(MAKER_NOTE)
    thumb_at = second_at + 2 + 2 * 12 + 4

    def entry(tag, kind, count, value):
        packed = struct.pack(order + "H", value) + b"\0\0" if kind == 3 else None
        return struct.pack(order + "HHI", tag, kind, count) + (
            packed or struct.pack(order + "I", value)
        )

    def directory(*entries, following=0):
        count = struct.pack(order + "H", len(entries))
        return count + b"".join(entries) + struct.pack(order + "I", following)

    first = directory(
        entry(0x010F, 2, len(make), make_at),
        entry(0x0112, 3, 1, 6),
        entry(0x8769, 4, 1, exif_at),
        following=second_at,
    )
    exif = directory(entry(0x927C, 7, len(MAKER_NOTE), note_at))
    second = directory(entry(0x0201, 4, 1, thumb_at), entry(0x0202, 4, 1, len(thumb)))
    mark = b"MM\0*" if order == ">" else b"II*\0"
    block = mark + struct.pack(order + "I", 8) + first + exif + make + MAKER_NOTE + second + thumb
    return block, note_at, thumb


def datasets(*triples):
    return b"".join(
        struct.pack(">BBBH", 28, record, number, len(value)) + value
        for record, number, value in triples
    )


def resource(number, data, name=b""):
    name = bytes([len(name)]) + name
    name += b"\0" * (len(name) % 2)
    return (
        b"8BIM" + struct.pack(">H", number) + name + struct.pack(">I", len(data)) + data
    ) + b"\0" * (len(data) % 2)


def resource_of(path, number):
    """Return the data of the first Photoshop resource that has a number and no name."""
    head = b"8BIM" + struct.pack(">HH", number, 0)
    data = path.read_bytes().partition(head)[2]
    return data[4 : 4 + struct.unpack(">I", data[:4])[0]]


def segment(marker, payload):
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def with_segments(jpeg, *segments):
    """Insert segments after the JFIF segment of a JPEG."""
    end = 4 + struct.unpack(">H", jpeg[4:6])[0]
    assert jpeg[2:4] == b"\xff\xe0"
    return jpeg[:end] + b"".join(segments) + jpeg[end:]


def segments_of(jpeg):
    """Return the segments before the first scan as (marker, payload), and the rest."""
    found, place = [], 2
    while jpeg[place + 1] != 0xDA:
        marker, size = struct.unpack(">xBH", jpeg[place : place + 4])
        found.append((marker, jpeg[place + 4 : place + 2 + size]))
        place += 2 + size
    return found, jpeg[place:]


def pixels_of(path):
    with Image.open(path) as image:
        frames = []
        for frame in range(getattr(image, "n_frames", 1)):
            image.seek(frame)
            frames.append((image.mode, image.size, image.tobytes()))
    return frames


def xmp_of(path):
    with Image.open(path) as image:
        packet = image.info["xmp"] if "xmp" in image.info else image.tag_v2[700]
    return packet if isinstance(packet, bytes) else packet.encode()


def descriptions_in(packet):
    """Return the description of an XMP packet by language."""
    root = ET.fromstring(re.sub(rb"<\?xpacket.*?\?>", b"", packet.strip(b"\0")).strip())
    (alternatives,) = root.findall(f".//{DC}description/{RDF}Alt")
    return {item.get(LANGUAGE): item.text for item in alternatives}


def iptc_of(path):
    with Image.open(path) as image:
        return IptcImagePlugin.getiptcinfo(image)


def exif_description_of(path):
    with Image.open(path) as image:
        text = image.getexif()[0x010E]
    return text.encode("latin-1").decode()  # Pillow decodes the bytes as Latin-1
