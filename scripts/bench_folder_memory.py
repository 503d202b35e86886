"""Measure whether captioning a folder takes more memory the more pictures there are.

Each run is a process of its own that captions links to a few generated JPEGs (640 x 480) into a
file of JSON lines. Peak resident memory is given for the process and for its largest worker.

    python scripts/bench_folder_memory.py --model runs/default/model
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

DIFFERENT = 20
RUN = """
import json, resource, sys
from captioning.cli import main
try:
    main(sys.argv[1:])
finally:
    who = {"process": resource.RUSAGE_SELF, "worker": resource.RUSAGE_CHILDREN}
    print(json.dumps({name: resource.getrusage(kind).ru_maxrss for name, kind in who.items()}))
"""


def make_folder(folder: Path, pictures: int) -> None:
    """Fill ``folder`` with links to the few different pictures beside it."""
    folder.mkdir()
    for number in range(pictures):
        os.link(folder.parent / f"{number % DIFFERENT}.jpg", folder / f"{number}.jpg")


def draw_pictures(folder: Path) -> None:
    for number in range(DIFFERENT):
        chance = np.random.default_rng(number)
        coarse = chance.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)
        image.save(folder / f"{number}.jpg", quality=90)


def measure(folder: Path, arguments: list[str]) -> dict[str, float]:
    """Caption a folder and return the peaks in MB and the pictures per second."""
    output = folder.parent / "captions.jsonl"
    words = [sys.executable, "-c", RUN, "caption", str(folder), "-o", str(output), *arguments]
    start = time.perf_counter()
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True)
    seconds = time.perf_counter() - start
    rows = len(output.read_text(encoding="utf-8").splitlines())
    assert rows == len(list(folder.iterdir())), f"{rows} rows"
    scale = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is bytes there, else kilobytes
    peaks = json.loads(done.stdout)
    return {
        "process_mb": round(peaks["process"] * scale / 1e6, 1),
        "worker_mb": round(peaks["worker"] * scale / 1e6, 1),
        "per_second": round(rows / seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a model directory; the packaged model by default")
    parser.add_argument("--pictures", type=int, nargs="+", default=[100, 5000])
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    arguments = ["--workers", str(options.workers)]
    arguments += ["--model", options.model] if options.model else []
    report: dict[str, object] = {"workers": options.workers}
    with tempfile.TemporaryDirectory() as folder:
        draw_pictures(Path(folder))
        for pictures in options.pictures:
            make_folder(Path(folder) / f"of {pictures}", pictures)
            report[str(pictures)] = measure(Path(folder) / f"of {pictures}", arguments)
            print(pictures, report[str(pictures)])
    print(json.dumps(report))


if __name__ == "__main__":
    main()
