"""The caption inside the photo: its XMP, IPTC and EXIF description, or an .xmp sidecar.

Only the containers are written (segments, chunks, tags), so the compressed pixels stay the very
bytes they were and all other metadata is kept. Written here and not taken from a library because
those that do it well wrap exiv2 and are GPL (exiv2, pyexiv2), piexif has had no release since 2019,
and iptcinfo3 knows the IPTC of JPEG only; Pillow would encode the pixels anew.
"""

from captioning.metadata.embedding import embed_caption, read_caption, write_xmp_sidecar

__all__ = ["embed_caption", "read_caption", "write_xmp_sidecar"]
