"""Small valid images in the formats and modes that Pillow writes, for fuzz_images.py."""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

SIZE = (48, 36)


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def valid_images() -> dict[str, bytes]:
    """Return small files by name; formats that this Pillow cannot write are skipped."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    photo = Image.fromarray(noise).resize(SIZE, Image.Resampling.BICUBIC)
    images: dict[str, bytes] = {}
    for part in (jpegs, pngs, animations, tiffs, others):
        for name, (image, form, options) in part(photo):
            try:
                images[name] = saved(image, form, **options)
            except (KeyError, OSError) as error:
                print(f"Skipping {name}: {error}")
    return images


Recipe = tuple[str, tuple[Image.Image, str, dict[str, Any]]]


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112], tags[0x010F] = orientation, "a camera"
    return tags


def jpegs(photo: Image.Image) -> Iterator[Recipe]:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield "jpeg", (photo, "JPEG", {})
    yield "jpeg progressive", (photo, "JPEG", {"progressive": True})
    yield "jpeg gray", (photo.convert("L"), "JPEG", {})
    yield "jpeg cmyk", (photo.convert("CMYK"), "JPEG", {})
    yield "jpeg exif", (photo, "JPEG", {"exif": exif(6), "icc_profile": profile})
    yield "jpeg 444 restart", (photo, "JPEG", {"subsampling": 0, "restart_marker_blocks": 4})
    yield "mpo", (photo, "MPO", {"save_all": True, "append_images": [photo.rotate(90)]})


def pngs(photo: Image.Image) -> Iterator[Recipe]:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "some text" * 30, zip=True)
    text.add_itxt("XML:com.adobe.xmp", "<x/>" * 30, zip=True)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        deep = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
        yield f"png {mode}", (deep if mode == "I;16" else photo.convert(mode), "PNG", {})
    yield "png exif", (photo, "PNG", {"exif": exif(8), "icc_profile": profile, "pnginfo": text})
    yield "png transparency", (photo.convert("P"), "PNG", {"transparency": bytes(range(256))})


def animations(photo: Image.Image) -> Iterator[Recipe]:
    frames = [photo.rotate(90 * turn) for turn in range(1, 4)]
    several = {"save_all": True, "append_images": frames}
    yield "apng", (photo, "PNG", several)
    yield "gif", (photo, "GIF", {})
    yield "gif animated", (photo.convert("P"), "GIF", {**several, "transparency": 3})
    yield "webp animated", (photo, "WEBP", several)
    yield "avif animated", (photo, "AVIF", several)


def tiffs(photo: Image.Image) -> Iterator[Recipe]:
    gray = np.asarray(photo.convert("L"))
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "zstd"):
        yield f"tiff {compression}", (photo, "TIFF", {"compression": compression})
    yield "tiff bits", (photo.convert("1"), "TIFF", {"compression": "group4"})
    yield "tiff 16", (Image.fromarray(gray.astype(np.uint16) * 257), "TIFF", {"exif": exif(5)})
    yield "tiff float", (Image.fromarray(gray.astype(np.float32) / 255), "TIFF", {})
    yield "tiff cmyk", (photo.convert("CMYK"), "TIFF", {"compression": "tiff_lzw"})
    yield "tiff lab", (Image.merge("LAB", photo.split()), "TIFF", {})
    yield "tiff pages", (photo, "TIFF", {"save_all": True, "append_images": [photo, photo]})
    tiled = {322: 16, 323: 16}  # TileWidth, TileLength
    yield "tiff tiled", (photo, "TIFF", {"tiffinfo": tiled, "compression": "tiff_lzw"})


def others(photo: Image.Image) -> Iterator[Recipe]:
    yield "webp", (photo, "WEBP", {"exif": exif(7)})
    yield "webp lossless", (photo.convert("RGBA"), "WEBP", {"lossless": True})
    yield "bmp", (photo, "BMP", {})
    yield "bmp palette", (photo.convert("P"), "BMP", {})
    yield "avif", (photo, "AVIF", {"exif": exif(3)})
    yield "jpeg2000", (photo, "JPEG2000", {})
    yield "jpeg2000 alpha", (photo.convert("RGBA"), "JPEG2000", {"irreversible": True})
    for form in ("ICO", "ICNS", "PPM", "TGA", "PCX", "SGI", "DDS", "QOI", "IM"):
        yield form.lower(), (photo, form, {})
    yield "tga packed", (photo.convert("RGBA"), "TGA", {"compression": "tga_rle"})
    yield "ico bitmap", (photo, "ICO", {"bitmap_format": "bmp"})
    yield "pfm", (photo.convert("L").convert("F"), "PPM", {})


def interlaced(width: int = 13, height: int = 11) -> bytes:
    """Return an interlaced PNG, which Pillow cannot write (PNG specification, section 8.2)."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    passes = "0088 4088 0448 2044 0224 1022 0112"  # first column, first row, column step, row step
    rows = b""
    for x, y, dx, dy in (map(int, digits) for digits in passes.split()):
        line = b"\0" + bytes(range(len(range(x, width, dx))))
        rows += line * len(range(y, height, dy))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
