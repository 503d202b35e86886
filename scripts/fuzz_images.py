"""Fuzz the image reader: damaged images must be read or refused with an ImageError.

    python scripts/fuzz_images.py --tries 10000 --seed 0 --time-limit 10 --memory 2

Each try damages one of about forty small files in the formats and modes that Pillow writes. It is
read twice, with and without ``allow_truncated``, in a process with limited memory. Any other end
than an image or an ImageError is a problem: another exception, a lack of memory, a crash, or a
timeout. ``--only N`` repeats one try; ``--keep`` saves the files with problems in a folder. The
exit code is 1 if there was a problem.
"""

import argparse
import io
import json
import multiprocessing
import os
import resource
import struct
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

from captioning.errors import ImageError
from captioning.images.decode import MAX_PIXELS, read_image

SIZE = (48, 36)
MODES = {True: "with allow_truncated", False: "by default"}
Generator = np.random.Generator


# --- valid images ------------------------------------------------------------------------------


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


# --- damage --------------------------------------------------------------------------------------


def flip_bytes(content: bytearray, random: Generator) -> None:
    for _ in range(random.integers(1, 9)):
        content[random.integers(len(content))] = random.integers(256)


def flip_early_bytes(content: bytearray, random: Generator) -> None:
    for _ in range(random.integers(1, 5)):
        content[random.integers(min(len(content), 128))] = random.choice([0, 1, 127, 128, 255])


def random_block(content: bytearray, random: Generator) -> slice:
    start = int(random.integers(len(content)))
    return slice(start, start + int(random.integers(1, 65)))


def zero_block(content: bytearray, random: Generator) -> None:
    part = random_block(content, random)
    content[part] = bytes(len(content[part]))


def repeat_block(content: bytearray, random: Generator) -> None:
    part = random_block(content, random)
    content[part.start : part.start] = content[part] * int(random.integers(1, 4))


def delete_block(content: bytearray, random: Generator) -> None:
    del content[random_block(content, random)]


def truncate(content: bytearray, random: Generator) -> None:
    del content[random.integers(len(content)) :]


def set_number(content: bytearray, random: Generator) -> None:
    """Overwrite a possible length, size or offset, in either byte order."""
    width = int(random.choice([2, 4]))
    place = int(random.integers(max(1, min(len(content), 600) - width)))
    values = [0, 1, 2, 255, 256, 32767, 65535, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]
    value = int(random.choice(values)) % (1 << 8 * width)
    content[place : place + width] = value.to_bytes(width, str(random.choice(["little", "big"])))  # type: ignore[arg-type]


DAMAGE: tuple[Callable[[bytearray, Generator], None], ...] = (
    flip_bytes, flip_early_bytes, zero_block, repeat_block, delete_block, truncate, set_number
)  # fmt: skip


def damage_image(images: dict[str, bytes], seed: int, number: int) -> tuple[str, bytes]:
    """Return the name and the bytes of one try, which depend only on its number and the seed."""
    random = np.random.default_rng([seed, number])
    names = list(images)
    name = names[number % len(names)]
    content = bytearray(images[name])
    if random.random() < 0.1:  # the start of one file, the end of another
        other = images[names[random.integers(len(names))]]
        content[random.integers(len(content)) :] = other[random.integers(len(other)) :]
        name += ", spliced"
    for _ in range(random.integers(1, 4)):
        if content:
            change = DAMAGE[random.integers(len(DAMAGE))]
            change(content, random)
            name += f", {change.__name__}"
    return name, bytes(content)


# --- reading in a separate process ---------------------------------------------------------------


def read(content: bytes, allow_truncated: bool, max_pixels: int) -> tuple[str, str]:
    """Read an image; return the kind of outcome and its details."""
    try:
        image = read_image(content, allow_truncated=allow_truncated, max_pixels=max_pixels)
    except ImageError as error:
        if isinstance(error.__cause__, MemoryError):
            return "out of memory", "".join(traceback.format_exception(error.__cause__)[-3:])
        return "refused", str(error)
    except BaseException as error:
        return type(error).__name__, "".join(traceback.format_exception(error)[-4:])
    is_valid = image.mode == "RGB" and image.width * image.height <= max_pixels
    return ("read", "") if is_valid else ("wrong image", f"{image.mode} {image.size}")


def serve(pipe: Connection, memory: float, max_pixels: int) -> None:
    limit = int(memory * (1 << 30))
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff prints its warnings there
    while True:
        content, allow_truncated = pipe.recv()
        pipe.send(read(content, allow_truncated, max_pixels))


class Reader:
    """A process that reads images and restarts if it dies or hangs."""

    def __init__(self, time_limit: float, memory: float, max_pixels: int) -> None:
        self.time_limit = time_limit
        self.limits = memory, max_pixels
        self.start()

    def start(self) -> None:
        """Start a process."""
        context = multiprocessing.get_context("fork")
        self.pipe, child_pipe = context.Pipe()
        self.process = context.Process(target=serve, args=(child_pipe, *self.limits), daemon=True)
        self.process.start()
        child_pipe.close()

    def read(self, content: bytes, allow_truncated: bool) -> tuple[str, str]:
        """Read an image in the process; return the kind of outcome and its details."""
        try:
            self.pipe.send((content, allow_truncated))
            if self.pipe.poll(self.time_limit):
                return self.pipe.recv()
            outcome = "time limit", f"not finished after {self.time_limit:g} seconds"
        except (EOFError, ConnectionError):
            self.process.join()
            outcome = "crash", f"exit status {self.process.exitcode}"
        self.stop()
        self.start()
        return outcome

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


# --- the run -------------------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tries", type=int, default=10_000, help="number of tries")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--time-limit", type=float, default=10, help="seconds per image")
    parser.add_argument("--memory", type=float, default=2, help="memory limit in GiB")
    parser.add_argument("--max-pixels", type=int, default=MAX_PIXELS)
    parser.add_argument("--keep", type=Path, help="folder for files with problems")
    parser.add_argument("--only", type=int, help="repeat only this try")
    return parser.parse_args()


def main() -> int:
    options = parse_arguments()
    images = {**valid_images(), "png interlaced": interlaced()}
    reader = Reader(options.time_limit, options.memory, options.max_pixels)
    for name, content in images.items():
        if (outcome := reader.read(content, False))[0] != "read":
            print(f"cannot read the undamaged {name}: {outcome}")
            return 1
    outcomes: Counter[str] = Counter()
    problems = 0
    slowest = (0.0, -1)
    start = time.perf_counter()
    for number in range(options.tries) if options.only is None else [options.only]:
        name, content = damage_image(images, options.seed, number)
        for allow_truncated, mode in MODES.items():
            started = time.perf_counter()
            outcome, detail = reader.read(content, allow_truncated)
            slowest = max(slowest, (time.perf_counter() - started, number))
            outcomes[outcome] += 1
            if options.only is not None:
                print(f"{name}: {outcome} {mode} {detail}")
            elif outcome not in ("read", "refused"):
                problems += 1
                print(f"try {number} ({name}): {outcome} {mode}: {detail}", flush=True)
                save_problem(options.keep, number, content)
    reader.stop()
    if options.only is not None:
        save_problem(options.keep, options.only, content)
        problems = sum(
            count for outcome, count in outcomes.items() if outcome not in ("read", "refused")
        )
    report = {
        "tries": options.tries if options.only is None else 1,
        "kinds": len(images),
        "seed": options.seed,
        "outcomes": dict(outcomes),
        "problems": problems,
        "seconds": round(time.perf_counter() - start, 1),
        "slowest_seconds": round(slowest[0], 2),
        "slowest_try": slowest[1],
    }
    print(json.dumps(report))
    return int(problems > 0)


def save_problem(folder: Path | None, number: int, content: bytes) -> None:
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.bin").write_bytes(content)


if __name__ == "__main__":
    raise SystemExit(main())
