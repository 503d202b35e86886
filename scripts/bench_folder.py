"""Measure the cost of a long run apart from the network: memory, journal and writers.

Each run is a process of its own that captions links to a few JPEGs into a file of JSON lines. The
report has images per second; resident memory after the first thousand images, at the end, and at
its peak; and the share of the time that the journal and the output take.

    python scripts/bench_folder.py --images 1000 100000 --photos photos --model runs/small/model
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

PHOTOS = 20
RUN = """
import json, resource, sys, time
from pathlib import Path
from captioning.bulk.content import ImageContent
from captioning.bulk.journal import Journal
from captioning.bulk.writers.base import Writer
from captioning.bulk.writers.files import FileWriter

spent, written, memory = 0.0, 0, {}

def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()

def timed(call):
    def wrapped(*args, **kwargs):
        global spent
        start = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            spent += time.perf_counter() - start
    return wrapped

def counted(call):
    def wrapped(*args):
        global written
        call(*args)
        written += 1
        if written == 1000:
            memory["after 1000"] = resident()
        memory["end"] = 0
    return wrapped

for owner, name in ((Journal, "get"), (Journal, "put"), (ImageContent, "__init__")):
    setattr(owner, name, timed(getattr(owner, name)))
FileWriter.write = counted(timed(FileWriter.write))
Writer.__exit__ = timed(Writer.__exit__)

from captioning.cli.main import main
start = time.perf_counter()
try:
    main(sys.argv[1:])
finally:
    seconds = time.perf_counter() - start
    memory["end"] = resident()
    print(json.dumps({
        "memory": memory,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "share": spent / seconds,
    }))
"""


def make_folder(folder: Path, photos: list[Path], images: int) -> None:
    """Fill ``folder`` with links to a few photos."""
    folder.mkdir()
    for number in range(images):
        os.link(photos[number % len(photos)], folder / f"{number}.jpg")


def draw_photos(folder: Path) -> list[Path]:
    """Draw a few JPEGs of 640 x 480 pixels."""
    paths = [folder / f"{number}.jpg" for number in range(PHOTOS)]
    for number, path in enumerate(paths):
        rng = np.random.default_rng(number)
        coarse = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)
        image.save(path, quality=90)
    return paths


def copy_photos(source: Path, folder: Path) -> list[Path]:
    """Copy photos to the file system of the links."""
    found = sorted(path for path in source.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    return [Path(shutil.copy(path, folder / path.name)) for path in found]


def measure(folder: Path, arguments: list[str]) -> dict[str, float]:
    """Caption a folder and return its measurements."""
    output = folder.with_name(f"{folder.name}.jsonl")
    words = [sys.executable, "-c", RUN, "caption", str(folder), "-o", str(output), *arguments]
    start = time.perf_counter()
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True)
    seconds = time.perf_counter() - start
    with output.open("rb") as file:
        rows = sum(1 for _ in file)
    assert rows == len(list(folder.iterdir())), f"{rows} rows"
    measured = json.loads(done.stdout)
    memory = {name: round(size / 1e6, 1) for name, size in measured["memory"].items()}
    return {
        **{f"mb_{name.replace(' ', '_')}": size for name, size in memory.items()},
        "mb_peak": round(measured["peak"] / 1e6, 1),
        "share_of_journal_and_output": round(measured["share"], 4),
        "per_second": round(rows / seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="model directory (default: the packaged model)")
    parser.add_argument("--photos", type=Path, help="folder of JPEGs (default: drawn ones)")
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 5000])
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    arguments = ["--workers", str(options.workers)]
    arguments += ["--model", options.model] if options.model else []
    report: dict[str, object] = {"workers": options.workers}
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        (home / "photos").mkdir()
        if options.photos:
            photos = copy_photos(options.photos, home / "photos")
        else:
            photos = draw_photos(home / "photos")
        for images in options.images:
            make_folder(home / f"of {images}", photos, images)
            report[str(images)] = measure(home / f"of {images}", arguments)
            print(images, report[str(images)], flush=True)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
