"""Caption a folder in which many images are damaged, and check that nothing is lost.

The script makes the folder: valid images of many kinds, and between them every kind of damage that
is known from folders of photos. Each image must have one row, in order, with a caption or with an
error that names the image. The captions must equal those of a run without the damaged images.

    python scripts/damaged_folder.py --model runs/default/model --copies 10
"""

import argparse
import io
import json
import os
import random
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, features

from captioning.bulk.readers import read_rows
from captioning.bulk.rows import RelativeNames
from captioning.bulk.writers.base import CaptionRow
from captioning.bulk.writers.tables import unescape_bytes

SECONDS_PER_IMAGE = 20.0  # a run that takes longer hangs


def draw_image(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Draw a smooth random image."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encode(image: Image.Image, format_name: str, **options: object) -> bytes:
    """Return an image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def good_images(seed: int) -> dict[str, bytes]:
    """Return files, by name, that must be captioned."""
    image = draw_image(seed)
    wide = np.linspace(0, 65535, 240 * 320).reshape(240, 320)
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = image.quantize(16)
    frames = [draw_image(seed + n) for n in range(3)]
    gif = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    tiff = encode(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    deep = Image.fromarray((wide / 16).astype(np.uint16))
    others = {"avif.avif": "AVIF"} if features.check("avif") else {}
    others |= {"wavelets.jp2": "JPEG2000"} if features.check("jpg_2000") else {}
    return {
        **{name: encode(image, format_name) for name, format_name in others.items()},
        **{f"turned-{n}.jpg": encode(image, "JPEG", exif=make_orientation(n)) for n in range(1, 9)},
        "turned.png": encode(image, "PNG", exif=make_orientation(6)),
        "profile.jpg": encode(image, "JPEG", icc_profile=srgb),
        "other-profile.jpg": encode(image, "JPEG", icc_profile=lab),
        "bad-profile.jpg": encode(image, "JPEG", icc_profile=b"no profile" * 50),
        "interlaced.png": make_interlaced_png(),
        "animated.png": encode(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "animated.webp": encode(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "icon.ico": encode(image.resize((64, 64)), "ICO"),
        "12-bit.tif": encode(deep, "TIFF"),
        "packed.tif": encode(image, "TIFF", compression="tiff_lzw"),
        "cmyk.tif": encode(image.convert("CMYK"), "TIFF"),
        "plain.ppm": encode(image, "PPM"),
        "targa.tga": encode(image, "TGA"),
        "plain.jpg": encode(image, "JPEG"),
        "progressive.jpeg": encode(image, "JPEG", progressive=True),
        "UPPER.JPG": encode(image, "JPEG"),
        "cmyk.jpg": encode(image.convert("CMYK"), "JPEG"),
        "gray.jpg": encode(image.convert("L"), "JPEG"),
        "turned.jpg": encode(image, "JPEG", exif=exif),
        "bad-exif.jpg": encode(image, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
        "png-inside.jpg": encode(image, "PNG"),
        "palette.png": encode(palette, "PNG", transparency=0),
        "alpha.png": encode(image.convert("RGBA"), "PNG"),
        "gray-alpha.png": encode(image.convert("LA"), "PNG"),
        "one-bit.png": encode(image.convert("1"), "PNG"),
        "16-bit.png": encode(Image.fromarray(wide.astype(np.uint16)), "PNG"),
        "float.tif": encode(Image.fromarray(wide.astype(np.float32)), "TIFF"),
        "pages.tiff": tiff,
        "animated.gif": gif,
        "lossless.webp": encode(image, "WEBP", lossless=True),
        "bitmap.bmp": encode(image, "BMP"),
        "dot.png": encode(image.resize((1, 1)), "PNG"),
        "strip.png": encode(image.resize((20_000, 20)), "PNG"),
        "comma, 'quote' \"and\" =1+1.jpg": encode(image, "JPEG"),
        "line\nbreak.jpg": encode(image, "JPEG"),
        "<b>&amp;.jpg": encode(image, "JPEG"),
    }


def make_interlaced_png() -> bytes:
    """Return a PNG with the seven passes of Adam7, which Pillow cannot write."""
    side, rows = 16, bytearray()
    for left, top, across, down in (
        *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
        *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
    ):
        for y in range(top, side, down):
            rows += b"\0" + b"".join(bytes((16 * x, 16 * y, 99)) for x in range(left, side, across))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 1)
    parts = (
        make_chunk(b"IHDR", header)
        + make_chunk(b"IDAT", zlib.compress(rows))
        + make_chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + parts


def make_orientation(orientation: int) -> Image.Exif:
    """Return EXIF data with an orientation (1 to 8)."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def make_chunk(kind: bytes, body: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + checksum


def make_bomb(side: int) -> bytes:
    """Return a small PNG whose header claims ``side`` x ``side`` pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1_000_000))
    parts = make_chunk(b"IHDR", header) + make_chunk(b"IDAT", rows) + make_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def damaged_images(seed: int) -> dict[str, bytes]:
    """Return files, by name, that must each give a row with an error."""
    rng = random.Random(seed)
    jpeg = encode(draw_image(seed), "JPEG", quality=95)
    progressive = encode(draw_image(seed), "JPEG", quality=95, progressive=True)
    png = encode(draw_image(seed), "PNG")
    broken_png = bytearray(png)
    broken_png[len(png) // 2] ^= 0xFF
    no_size = png[:16] + bytes(8) + png[24:]
    return {
        "empty.jpg": b"",
        "zeros.jpg": bytes(5000),
        "noise.jpg": rng.randbytes(5000),
        "text.jpg": b"This is a letter and not an image.\n",
        "page.jpg": b"<!DOCTYPE html><html><title>404 Not Found</title></html>",
        "drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "document.jpg": b"%PDF-1.7\n" + rng.randbytes(500),
        "archive.png": b"PK\x03\x04" + rng.randbytes(500),
        "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nquit\n",
        "half.jpg": jpeg[: len(jpeg) // 2],
        "half-progressive.jpg": progressive[: len(progressive) // 2],
        "header.jpg": jpeg[:100],
        "two-bytes.jpg": jpeg[:2],
        "half.png": png[: len(png) // 2],
        "signature.png": png[:8],
        "flipped.png": bytes(broken_png),
        "no-size.png": no_size,
        "half.gif": encode(draw_image(seed), "GIF")[:2000],
        "half.webp": encode(draw_image(seed), "WEBP")[:1000],
        "half.bmp": encode(draw_image(seed), "BMP")[:1000],
        "half.tif": encode(draw_image(seed), "TIFF", compression="tiff_lzw")[:1000],
        "bomb.png": make_bomb(60_000),
        "absurd.png": make_bomb(2**31 - 1),
        "phone.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + rng.randbytes(500),
        "film.jpg": b"\0\0\0\x18ftypmp42" + rng.randbytes(500),
    }


def add_special_files(folder: Path) -> tuple[set[str], set[str]]:
    """Add links, pipes and a folder named like an image; return the valid and the damaged ones."""
    made = {folder / name for name in ("dangling.jpg", "loop.jpg", "outside.jpg")}
    (folder.parent / "outside.jpg").write_bytes(encode(draw_image(2), "JPEG"))
    (folder / "outside.jpg").symlink_to(folder.parent / "outside.jpg")
    inside = folder / "folder.jpg" / "inside.jpg"
    inside.parent.mkdir()
    inside.write_bytes(encode(draw_image(3), "JPEG"))
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "round").symlink_to(folder, target_is_directory=True)
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.jpg")
        made.add(folder / "pipe.jpg")
    if hasattr(os, "geteuid") and os.geteuid() != 0:  # root may read everything
        (folder / "closed.jpg").write_bytes(encode(draw_image(1), "JPEG"))
        (folder / "closed.jpg").chmod(0)
        made.add(folder / "closed.jpg")
    for name in ("notes.txt", ".hidden.jpg", "Thumbs.db"):
        (folder / name).write_bytes(b"left out")
    return {str(inside)}, {str(path) for path in made}


def add_archive(path: Path, images: int) -> set[str]:
    """Write an archive of images and other files; return the names of its images."""
    names = set()
    with tarfile.open(path, "w") as archive:
        for number in range(images):
            content = encode(draw_image(number), "JPEG")
            for ending in ("jpg", "json"):
                member = tarfile.TarInfo(f"{number:06d}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            names.add(f"{path}/{number:06d}.jpg")
    return names


def make_folder(folder: Path, copies: int) -> tuple[set[str], set[str]]:
    """Fill ``folder``; return the paths of the valid and of the damaged images."""
    good, damaged = set(), set()
    for copy in range(copies):
        for make, paths in ((good_images, good), (damaged_images, damaged)):
            for name, content in make(copy).items():
                path = folder / f"{copy:03d}" / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
                paths.add(str(path))
    good |= add_archive(folder.parent / "good.tar", 3)
    cut = folder.parent / "cut.tar"
    good |= add_archive(cut, 2)
    damaged.add(str(cut))
    content = cut.read_bytes()
    cut.write_bytes(content[: content.rindex(b"ustar") + 100])
    odd = os.path.join(os.fsencode(folder), b"\xff\xfe not UTF-8.jpg")  # noqa: PTH118
    with open(odd, "wb") as file:  # noqa: PTH123
        file.write(encode(draw_image(7), "JPEG"))
    good.add(os.fsdecode(odd))
    special_good, special_damaged = add_special_files(folder)
    return good | special_good, damaged | special_damaged


def caption(paths: list[str], output: Path, model: str | None, limit: float) -> tuple[int, str]:
    """Run the command with a list on standard input; return its exit code and messages."""
    words = [sys.executable, "-m", "captioning", "caption", "-", "-o", str(output), "--recursive"]
    words += ["--precision", "float32"]  # captions do not depend on the batch
    words += ["--model", model] if model else []
    listed = b"\0".join(os.fsencode(path) for path in paths) + b"\0"
    done = subprocess.run(words, input=listed, capture_output=True, timeout=limit, check=False)
    return done.returncode, done.stderr.decode("utf-8", "replace")


def check(
    rows: list[CaptionRow], clean: list[CaptionRow], good: set[str], damaged: set[str]
) -> list[str]:
    """Return the problems in the rows of a run."""
    problems = []
    names = [row.image for row in rows]
    if len(set(names)) != len(names):
        problems.append("an image has two rows")
    problems += [f"no row: {name!r}" for name in sorted((good | damaged) - set(names))]
    problems += [f"unexpected row: {name!r}" for name in sorted(set(names) - good - damaged)]
    captions = {row.image: row.captions for row in rows}
    for row in rows:
        if row.image in damaged and row.ok:
            problems.append(f"damaged, but captioned: {row.image!r}")
        if not row.ok and os.path.basename(row.image) not in unescape_bytes(row.error):  # noqa: PTH119
            problems.append(f"error does not name its image: {row}")
    for row in clean:
        if not row.ok:
            problems.append(f"valid, but not captioned: {row}")
        if captions.get(row.image) != row.captions:
            problems.append(f"caption differs from a run without damaged images: {row.image!r}")
    return problems


def read_output(path: Path) -> list[CaptionRow]:
    """Return the rows of a run, those of failed images included."""
    rows = read_rows(path, "jsonl", RelativeNames(None))
    return [replace(row, image=os.path.abspath(row.image)) for row in rows]  # noqa: PTH100


def run(folder: Path, copies: int, model: str | None) -> dict[str, object]:
    """Caption the folder, print the problems, and return the report."""
    images = folder / "images"
    images.mkdir()
    good, damaged = make_folder(images, copies)
    limit = 60 + SECONDS_PER_IMAGE * (len(good) + len(damaged))
    start = time.monotonic()
    named = [str(images), str(folder / "good.tar"), str(folder / "cut.tar"), "no such.jpg"]
    damaged.add(os.path.abspath("no such.jpg"))  # noqa: PTH100
    code, messages = caption(named, folder / "rows.jsonl", model, limit)
    seconds = time.monotonic() - start
    alone = {path for path in good if ".tar/" not in path}
    clean_code, _ = caption(
        [*sorted(alone), str(folder / "good.tar")], folder / "clean.jsonl", model, limit
    )
    rows = read_output(folder / "rows.jsonl")
    problems = check(rows, read_output(folder / "clean.jsonl"), good, damaged)
    if (code, clean_code) != (1, 0):
        problems.append(f"exit codes {code} and {clean_code}, not 1 and 0")
    problems += ["the messages contain a traceback"] if "Traceback" in messages else []
    for problem in problems:
        print(problem)
    if problems:
        print(messages)
    return {
        "kinds": len(good_images(0)) + len(damaged_images(0)) + 5,
        "good": len(good),
        "damaged": len(damaged),
        "rows": len(rows),
        "problems": len(problems),
        "seconds": round(seconds, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="model directory (default: the packaged model)")
    parser.add_argument("--copies", type=int, default=4, help="number of files of each kind")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = run(Path(folder), options.copies, options.model)
    print(json.dumps(report))
    return 1 if report["problems"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
