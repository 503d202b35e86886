"""Caption a folder in which most images are damaged, and check that nothing is lost.

The folder is made here: good images in many forms, and between them every kind of damage that
folders of photos are known to hold. Each image must end in one row, in order, captioned or with
an error that names it; the good ones' captions must be those of a run without the damaged ones.

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
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, features

PER_IMAGE = 20.0  # seconds after which a hidden hang would show


def draw_image(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    chance = np.random.default_rng(seed)
    coarse = chance.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def good_images(seed: int) -> dict[str, bytes]:
    """Return images that must be captioned, whatever their form."""
    image = draw_image(seed)
    wide = np.linspace(0, 65535, 240 * 320).reshape(240, 320)
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = image.quantize(16)
    frames = [draw_image(seed + n) for n in range(3)]
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    tiff = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    deep = Image.fromarray((wide / 16).astype(np.uint16))
    others = {"avif.avif": "AVIF"} if features.check("avif") else {}
    others |= {"wavelets.jp2": "JPEG2000"} if features.check("jpg_2000") else {}
    return {
        **{name: encoded(image, form) for name, form in others.items()},
        **{f"turned-{n}.jpg": encoded(image, "JPEG", exif=oriented(n)) for n in range(1, 9)},
        "turned.png": encoded(image, "PNG", exif=oriented(6)),
        "profile.jpg": encoded(image, "JPEG", icc_profile=srgb),
        "other-profile.jpg": encoded(image, "JPEG", icc_profile=lab),
        "bad-profile.jpg": encoded(image, "JPEG", icc_profile=b"no profile" * 50),
        "interlaced.png": interlaced_png(),
        "animated.png": encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "animated.webp": encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "icon.ico": encoded(image.resize((64, 64)), "ICO"),
        "12-bit.tif": encoded(deep, "TIFF"),
        "packed.tif": encoded(image, "TIFF", compression="tiff_lzw"),
        "cmyk.tif": encoded(image.convert("CMYK"), "TIFF"),
        "plain.ppm": encoded(image, "PPM"),
        "targa.tga": encoded(image, "TGA"),
        "plain.jpg": encoded(image, "JPEG"),
        "progressive.jpeg": encoded(image, "JPEG", progressive=True),
        "UPPER.JPG": encoded(image, "JPEG"),
        "cmyk.jpg": encoded(image.convert("CMYK"), "JPEG"),
        "grey.jpg": encoded(image.convert("L"), "JPEG"),
        "turned.jpg": encoded(image, "JPEG", exif=exif),
        "bad-exif.jpg": encoded(image, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
        "png-inside.jpg": encoded(image, "PNG"),
        "palette.png": encoded(palette, "PNG", transparency=0),
        "alpha.png": encoded(image.convert("RGBA"), "PNG"),
        "grey-alpha.png": encoded(image.convert("LA"), "PNG"),
        "one-bit.png": encoded(image.convert("1"), "PNG"),
        "16-bit.png": encoded(Image.fromarray(wide.astype(np.uint16)), "PNG"),
        "float.tif": encoded(Image.fromarray(wide.astype(np.float32)), "TIFF"),
        "pages.tiff": tiff,
        "animated.gif": gif,
        "lossless.webp": encoded(image, "WEBP", lossless=True),
        "bitmap.bmp": encoded(image, "BMP"),
        "dot.png": encoded(image.resize((1, 1)), "PNG"),
        "strip.png": encoded(image.resize((20_000, 20)), "PNG"),
        "comma, 'quote' \"and\" =1+1.jpg": encoded(image, "JPEG"),
        "line\nbreak.jpg": encoded(image, "JPEG"),
        "<b>&amp;.jpg": encoded(image, "JPEG"),
    }


def interlaced_png() -> bytes:
    """Return a PNG whose rows come in the seven passes of Adam7; Pillow writes none."""
    side, rows = 16, bytearray()
    for left, top, across, down in (
        *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
        *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
    ):
        for y in range(top, side, down):
            rows += b"\0" + b"".join(bytes((16 * x, 16 * y, 99)) for x in range(left, side, across))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 1)
    parts = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def oriented(orientation: int) -> Image.Exif:
    """Return EXIF data that say how an image is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _chunk(kind: bytes, body: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + checksum


def _bomb(side: int) -> bytes:
    """Return a PNG of a few kilobytes whose header asks for ``side`` x ``side`` pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1_000_000))
    parts = _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def damaged_images(seed: int) -> dict[str, bytes]:
    """Return files that must each give a row with an error."""
    chance = random.Random(seed)
    jpeg = encoded(draw_image(seed), "JPEG", quality=95)
    progressive = encoded(draw_image(seed), "JPEG", quality=95, progressive=True)
    png = encoded(draw_image(seed), "PNG")
    broken_png = bytearray(png)
    broken_png[len(png) // 2] ^= 0xFF
    no_size = png[:16] + bytes(8) + png[24:]
    return {
        "empty.jpg": b"",
        "zeros.jpg": bytes(5000),
        "noise.jpg": chance.randbytes(5000),
        "text.jpg": b"This is a letter and not an image.\n",
        "page.jpg": b"<!DOCTYPE html><html><title>404 Not Found</title></html>",
        "drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "document.jpg": b"%PDF-1.7\n" + chance.randbytes(500),
        "archive.png": b"PK\x03\x04" + chance.randbytes(500),
        "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nquit\n",
        "half.jpg": jpeg[: len(jpeg) // 2],
        "half-progressive.jpg": progressive[: len(progressive) // 2],
        "header.jpg": jpeg[:100],
        "two-bytes.jpg": jpeg[:2],
        "half.png": png[: len(png) // 2],
        "signature.png": png[:8],
        "flipped.png": bytes(broken_png),
        "no-size.png": no_size,
        "half.gif": encoded(draw_image(seed), "GIF")[:2000],
        "half.webp": encoded(draw_image(seed), "WEBP")[:1000],
        "half.bmp": encoded(draw_image(seed), "BMP")[:1000],
        "half.tif": encoded(draw_image(seed), "TIFF", compression="tiff_lzw")[:1000],
        "bomb.png": _bomb(60_000),
        "absurd.png": _bomb(2**31 - 1),
        "phone.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + chance.randbytes(500),
        "film.jpg": b"\0\0\0\x18ftypmp42" + chance.randbytes(500),
    }


def _add_strange_things(folder: Path) -> set[str]:
    """Add what is no file, and return the paths that must give an error."""
    made = {folder / name for name in ("folder.jpg", "dangling.jpg", "loop.jpg", "outside.jpg")}
    (folder.parent / "outside.jpg").write_bytes(encoded(draw_image(2), "JPEG"))
    (folder / "outside.jpg").symlink_to(folder.parent / "outside.jpg")
    (folder / "folder.jpg").mkdir()
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "round").symlink_to(folder, target_is_directory=True)
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.jpg")
        made.add(folder / "pipe.jpg")
    if hasattr(os, "geteuid") and os.geteuid() != 0:  # root may read everything
        (folder / "closed.jpg").write_bytes(encoded(draw_image(1), "JPEG"))
        (folder / "closed.jpg").chmod(0)
        made.add(folder / "closed.jpg")
    for name in ("notes.txt", ".hidden.jpg", "Thumbs.db"):
        (folder / name).write_bytes(b"left out")
    return {str(path) for path in made}


def _add_shard(path: Path, images: int) -> set[str]:
    """Write a tar shard, and return the names of its images; the last is no whole member."""
    names = set()
    with tarfile.open(path, "w") as shard:
        for number in range(images):
            content = encoded(draw_image(number), "JPEG")
            for ending in ("jpg", "json"):
                member = tarfile.TarInfo(f"{number:06d}.{ending}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
            names.add(f"{path}/{number:06d}.jpg")
    return names


def make_folder(folder: Path, copies: int) -> tuple[set[str], set[str]]:
    """Fill ``folder``, and return the paths of the good and of the damaged images."""
    good, damaged = set(), set()
    for copy in range(copies):
        for make, paths in ((good_images, good), (damaged_images, damaged)):
            for name, content in make(copy).items():
                path = folder / f"{copy:03d}" / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
                paths.add(str(path))
    good |= _add_shard(folder.parent / "good.tar", 3)
    cut = folder.parent / "cut.tar"
    good |= _add_shard(cut, 2)
    damaged.add(str(cut))
    content = cut.read_bytes()
    cut.write_bytes(content[: content.rindex(b"ustar") + 100])
    odd = os.path.join(os.fsencode(folder), b"\xff\xfe not UTF-8.jpg")  # noqa: PTH118
    with open(odd, "wb") as file:  # noqa: PTH123
        file.write(encoded(draw_image(7), "JPEG"))
    good.add(os.fsdecode(odd))
    return good, damaged | _add_strange_things(folder)


def caption(paths: list[str], output: Path, model: str | None, limit: float) -> tuple[int, str]:
    """Run the command over a list on its standard input; return its exit code and messages."""
    words = [sys.executable, "-m", "captioning", "caption", "-", "-o", str(output), "--recursive"]
    words += ["--model", model] if model else []
    listed = b"\0".join(os.fsencode(path) for path in paths) + b"\0"
    done = subprocess.run(words, input=listed, capture_output=True, timeout=limit, check=False)
    return done.returncode, done.stderr.decode("utf-8", "replace")


def check(
    rows: list[dict[str, str]], clean: list[dict[str, str]], good: set[str], damaged: set[str]
) -> list[str]:
    """Return what is wrong with a run's rows."""
    problems = []
    names = [row["image"] for row in rows]
    if len(set(names)) != len(names):
        problems.append("an image has two rows")
    problems += [f"no row: {name!r}" for name in sorted((good | damaged) - set(names))]
    problems += [f"unasked for: {name!r}" for name in sorted(set(names) - good - damaged)]
    captions = {row["image"]: row.get("caption") for row in rows}
    for row in rows:
        if row["image"] in damaged and not row.get("error"):
            problems.append(f"captioned though damaged: {row['image']!r}")
        if row.get("error") and row["image"] not in row["error"]:
            problems.append(f"an error that does not name its image: {row}")
    for row in clean:
        if row.get("caption") is None:
            problems.append(f"good, but not captioned: {row}")
        if captions.get(row["image"]) != row.get("caption"):
            problems.append(f"another caption than without damaged neighbours: {row['image']!r}")
    return problems


def read_rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run(folder: Path, copies: int, model: str | None) -> dict[str, object]:
    images = folder / "images"
    images.mkdir()
    good, damaged = make_folder(images, copies)
    limit = 60 + PER_IMAGE * (len(good) + len(damaged))
    start = time.monotonic()
    named = [str(images), str(folder / "good.tar"), str(folder / "cut.tar"), "no such.jpg"]
    damaged.add("no such.jpg")
    code, messages = caption(named, folder / "rows.jsonl", model, limit)
    seconds = time.monotonic() - start
    alone = {path for path in good if ".tar/" not in path}
    clean_code, _ = caption(
        [*sorted(alone), str(folder / "good.tar")], folder / "clean.jsonl", model, limit
    )
    rows = read_rows(folder / "rows.jsonl")
    problems = check(rows, read_rows(folder / "clean.jsonl"), good, damaged)
    if (code, clean_code) != (1, 0):
        problems.append(f"exit codes {code} and {clean_code}, not 1 and 0")
    problems += ["a traceback"] if "Traceback" in messages else []
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
    parser.add_argument("--model", help="a model directory; the packaged model by default")
    parser.add_argument("--copies", type=int, default=4, help="images of each kind")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = run(Path(folder), options.copies, options.model)
    print(json.dumps(report))
    return 1 if report["problems"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
