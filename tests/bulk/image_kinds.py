"""One small image of each kind whose metadata other programs are known to damage.

Places and formats: XMP specification part 3; CIPA DC-007 (MPO); PNG 1.2 and its extensions;
Photoshop file formats (resources); Google's motion photo and Samsung's trailer formats.
"""

import hashlib
import io
import random
import struct
import zlib

from image_files import (
    XMP_HEADER,
    datasets,
    encoded,
    exif_block,
    image,
    resource,
    segment,
    with_segments,
    xmp,
)
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

PHOTOSHOP = b"Photoshop 3.0\0"
IPTC = datasets((2, 0, b"\0\2"), (2, 25, b"keyword"), (2, 40, b"1\r\n2"), (2, 120, b"old"))
LATIN = datasets((2, 0, b"\0\2"), (2, 25, "Köln".encode("latin-1")), (2, 120, b"old"))
JPEG = encoded("JPEG", comment=b"a comment")
DESCRIPTION = (
    '<d:description><rdf:Alt><rdf:li xml:lang="x-default">{}</rdf:li></rdf:Alt></d:description>'
)
OLD_XMP = xmp(DESCRIPTION.format("old"))
RESOLUTION = resource(0x03ED, struct.pack(">IHHIHH", 300 << 16, 1, 1, 300 << 16, 1, 1))
MOVIE = struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"mp42", 0, b"isom", b"mp42") + b"\0\0\0\x8amdat"
MOVIE += bytes(range(130))
DATA = {"imagej.tif": "ImageJ=1.53t\nimages=1\n", "ome.tif": '<?xml version="1.0"?><OME/>'}
"""Descriptions that programs read back, by kind."""


def saved(format_, **options):
    file = io.BytesIO()
    image().save(file, format_, **options)
    return file.getvalue()


def saved_frames(format_, **options):
    return saved(format_, save_all=True, append_images=[image().rotate(180)], **options)


def digest(iptc):
    return resource(0x0425, hashlib.md5(iptc).digest())


def app13(*resources):
    return segment(0xED, PHOTOSHOP + b"".join(resources))


def app1(packet):
    return segment(0xE1, XMP_HEADER + packet)


def exif(**more):
    block = Image.Exif()
    block.update({0x010E: "old", 0x010F: "ACME", 0x0112: 6})
    block.get_ifd(0x8769).update({int(tag[1:], 16): value for tag, value in more.items()})
    return block.tobytes()


def canon_exif():
    """Return EXIF with a maker note whose offsets count from the start of EXIF."""
    make, owner = b"Canon\0", b"Some Owner\0\0"
    note_at = 8 + 2 + 2 * 12 + 4 + 2 + 12 + 4 + len(make)
    note = struct.pack("<HHHII", 1, 9, 2, len(owner), note_at + 18) + bytes(4) + owner
    first = struct.pack("<HHHIIHHIII", 2, 0x10F, 2, 6, note_at - 6, 0x8769, 4, 1, 38, 0)
    second = struct.pack("<HHHIII", 1, 0x927C, 7, len(note), note_at, 0)
    return b"Exif\0\0II*\0\x08\0\0\0" + first + second + make + note


def samsung_trailer():
    data = b"\0\0\x30\x0a" + struct.pack("<I", 16) + b"MotionPhoto_Data" + MOVIE
    head = b"SEFH" + struct.pack("<IIHHII", 107, 1, 0, 0x0A30, len(data), len(data))
    return data + head + struct.pack("<I", len(head)) + b"SEFT"


def google_xmp():
    names = {"MicroVideo": 1, "MicroVideoVersion": 1, "MicroVideoOffset": len(MOVIE)}
    space = 'xmlns:g="http://ns.google.com/photos/1.0/camera/"'
    return xmp("".join(f"<g:{name} {space}>{value}</g:{name}>" for name, value in names.items()))


def keywords_xmp(count):
    numbers = random.Random(0)
    items = "".join(f"<rdf:li>{numbers.random():055.16f}</rdf:li>" for _ in range(count))
    return xmp(f"{DESCRIPTION.format('old')}<d:subject><rdf:Bag>{items}</rdf:Bag></d:subject>")


def extended_xmp():
    """Return segments with XMP of more than 64 KB, whose second part has the keywords."""
    items = "".join(f"<rdf:li>{number:06d}</rdf:li>" for number in range(3500))
    extension = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        'rdf:about="uuid:a&amp;b" xmlns:d="http://purl.org/dc/elements/1.1/"><d:subject><rdf:Bag>'
        f"{items}</rdf:Bag></d:subject></rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()
    name = hashlib.md5(extension).hexdigest().upper()
    note = f'xmlns:n="http://ns.adobe.com/xmp/note/" n:HasExtendedXMP="{name}" xmlns:odd'
    yield app1(OLD_XMP.replace(b"xmlns:odd", note.encode()))
    for start in range(0, len(extension), 60_000):
        head = name.encode() + struct.pack(">II", len(extension), start)
        part = head + extension[start : start + 60_000]
        yield segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + part)


def copies_xmp():
    places = (("tiff/1.0/", "ImageDescription", "older"), ("exif/1.0/", "UserComment", "old"))
    copies = "".join(
        f'<c:{name} xmlns:c="http://ns.adobe.com/{space}"><rdf:Alt><rdf:li xml:lang="x-default">'
        f"{text}</rdf:li></rdf:Alt></c:{name}>"
        for space, name, text in places
    )
    notes = '<a:notes xmlns:a="http://ns.acdsee.com/iptc/1.0/">old</a:notes>'
    return xmp(DESCRIPTION.format("old") + copies + notes)


def chunk(kind, data):
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def png(*late_chunks, raw=None, **texts):
    """Return a PNG with texts, ``Raw profile type`` texts, and chunks after the pixels."""
    info = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    for kind, data in (raw or {}).items():
        text = f"\n{kind}\n{len(data):8}\n{data.hex()}\n"
        info.add_text(f"Raw profile type {kind}", text, zip=True)
    data = encoded("PNG", pnginfo=info, dpi=(300, 300))
    return data[:-12] + b"".join(late_chunks) + data[-12:]


def tiff(**tags):
    """Return a TIFF with tags named by their number in hexadecimal, such as ``x02bc``."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        info[int(name[1:], 16)] = value
        if isinstance(value, bytes):
            info.tagtype[int(name[1:], 16)] = 7
    return saved("TIFF", tiffinfo=info)


def padded(iptc):
    return iptc + b"\0" * (-len(iptc) % 4)


WITHOUT_JFIF = JPEG[:2] + JPEG[4 + struct.unpack(">H", JPEG[4:6])[0] :]
KINDS = {
    # JPEG
    "plain.jpg": JPEG,
    "rich.jpg": with_segments(
        JPEG,
        segment(0xE1, b"Exif\0\0" + exif_block()[0]),
        app1(xmp()),
        app13(RESOLUTION, resource(0x0404, IPTC), digest(IPTC)),
    ),
    "canon.jpg": with_segments(JPEG, segment(0xE1, canon_exif())),
    "progressive.jpg": encoded("JPEG", progressive=True),
    "cmyk.jpg": encoded("JPEG", "CMYK"),
    "profile.jpg": encoded(
        "JPEG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    ),
    "300-dpi.jpg": WITHOUT_JFIF[:2] + app13(RESOLUTION) + WITHOUT_JFIF[2:],
    "two-iptc.jpg": with_segments(JPEG, app13(resource(0x0404, IPTC), resource(0x0404, IPTC))),
    "latin-iptc.jpg": with_segments(JPEG, app13(resource(0x0404, LATIN), digest(LATIN))),
    "copies.jpg": with_segments(
        encoded("JPEG", exif=exif(x9286=b"ASCII\0\0\0old"), comment=b"old"), app1(copies_xmp())
    ),
    "comments.jpg": with_segments(
        encoded("JPEG", exif=exif(x9286=b"ASCII\0\0\0note")), app1(OLD_XMP)
    ),
    "xmp-of-64-kb.jpg": with_segments(JPEG, app1(keywords_xmp(890))),
    "xmp-over-64-kb.jpg": with_segments(JPEG, *extended_xmp()),
    "google-motion.jpg": with_segments(JPEG, app1(google_xmp())) + MOVIE,
    "samsung-motion.jpg": JPEG + samsung_trailer(),
    "trailer.jpg": JPEG + b"trailing \xff\xd8\xff bytes",
    "two-images.mpo": saved_frames("MPO"),
    # PNG
    "plain.png": png(Author="me", parameters="Steps: 20"),
    "png-named.jpg": png(),
    "animated.png": saved_frames("PNG"),
    "old-text.png": png(Description="old"),
    "translated-text.png": png(chunk(b"iTXt", b"Description\0\0\0de\0\0alt")),
    "two-texts.png": png(chunk(b"iTXt", b"Description\0\0\0\0\0old"), Description="older"),
    "data.png": png(Comment='{"prompt": "old"}'),
    "late-exif.png": png(chunk(b"eXIf", exif()[6:])),
    "late-xmp.png": png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + OLD_XMP)),
    "raw-exif.png": png(raw={"exif": exif()}),
    "raw-app1-exif.png": png(raw={"APP1": exif()}),
    "raw-app1-xmp.png": png(raw={"APP1": XMP_HEADER + OLD_XMP}),
    "raw-iptc.png": png(raw={"iptc": resource(0x0404, IPTC)}),
    "raw-8bim.png": png(raw={"8bim": resource(0x0404, LATIN) + digest(LATIN)}),
    "raw-all.png": png(
        chunk(b"eXIf", exif()[6:]),
        raw={"exif": exif(), "iptc": resource(0x0404, IPTC), "xmp": OLD_XMP},
        Description="old",
    ),
    # TIFF
    "plain.tif": encoded("TIFF", "L", big_endian=True),
    "pages.tif": saved_frames("TIFF", compression="tiff_lzw"),
    "jpeg.tif": saved("TIFF", compression="jpeg"),
    "xmp.tif": tiff(x02bc=OLD_XMP),
    "iptc.tif": tiff(x83bb=padded(IPTC), x8649=resource(0x0404, IPTC) + digest(IPTC)),
    "photoshop.tif": tiff(x8649=resource(0x0404, LATIN) + digest(LATIN)),
    **{name: tiff(x010e=text) for name, text in DATA.items()},
    # others
    "still.gif": saved("GIF"),
    "animated.gif": saved_frames("GIF", comment=b"a comment"),
    "plain.jp2": saved("JPEG2000"),
    "plain.avif": saved("AVIF", exif=exif()),
}
