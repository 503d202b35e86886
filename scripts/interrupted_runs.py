"""Kill a run over a folder at random moments, fill its disk, and see whether anything is lost.

    python scripts/interrupted_runs.py --model runs/small/model --kills 50 --images 1000

The folder holds generated JPEGs and damaged ones between them. A run that nobody disturbs gives the
expected output. Then, for each of the formats in turn, the same command is killed (``kill -9``)
after a random time and given again, until it comes to its end; and once more in a file system that
is nearly full, which grows each time (with root's rights; else its files are limited in size). At
the end every output has to equal the expected one byte for byte, and no image may have been
captioned twice but those of the batches in which the run was killed.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

BATCH = 8
FORMATS = ("jsonl", "csv", "json", "html", "parquet")
COUNT_READS = """
import sys
from captioning.inference.generation import CaptionGenerator
real = CaptionGenerator._generate_chunk
def counted(self, pixels, how):
    with open(sys.argv[1], "a") as file:
        file.write(f"{len(pixels)}\\n")
    return real(self, pixels, how)
CaptionGenerator._generate_chunk = counted
from captioning.cli.main import main
main(sys.argv[2:])
"""


def make_folder(folder: Path, images: int) -> None:
    """Fill a folder with images, every twentieth of them damaged."""
    folder.mkdir()
    for number in range(images):
        chance = np.random.default_rng(number)
        coarse = Image.fromarray(chance.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        path = folder / f"photo {number}.jpg"
        coarse.resize((160, 120), Image.Resampling.BICUBIC).save(path, quality=85)
        if number % 20 == 19:
            path.write_bytes(path.read_bytes()[: number % 700])


class Runs:
    """Gives the same command again and again.

    Args:
        folder: The images.
        output: Where the results go.
        model: The model; None for the packaged one.
    """

    def __init__(self, folder: Path, output: Path, model: str | None) -> None:
        self.output = output
        self.reads = output.parent.parent / f"reads of {output.parent.name}"
        self.words = [sys.executable, "-c", COUNT_READS, str(self.reads), "caption", str(folder)]
        self.words += ["-o", str(output), "--batch-size", str(BATCH)]
        self.words += ["--model", model] if model else []

    def start(self, limit: int | None = None) -> "subprocess.Popen[bytes]":
        """Start the command, with files of at most ``limit`` bytes."""
        words = self.words
        if limit is not None:
            words = ["prlimit", f"--fsize={limit}", *words]
        return subprocess.Popen(words, stderr=subprocess.PIPE)

    def finish(self, limit: int | None = None) -> tuple[int, str]:
        """Run to the end; return the exit code and what was said."""
        process = self.start(limit)
        _, told = process.communicate()
        return process.returncode, told.decode("utf-8", "replace")

    @property
    def captioned(self) -> int:
        """How many images went through the network, in all runs together."""
        return sum(map(int, self.reads.read_text().split())) if self.reads.exists() else 0


def files_of(folder: Path) -> dict[str, bytes]:
    """Return what a run has left but for its journal."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".journal" not in path.name
    }


def killed(runs: Runs, kills: int, seconds: float, chance: random.Random) -> int:
    """Kill the run so many times, at random moments of its work; return how often it was at work.

    Args:
        runs: What to kill.
        kills: How often.
        seconds: How long the work takes when nobody disturbs it.
        chance: Decides when.
    """
    hits = 0
    for _ in range(kills):
        before = runs.captioned
        process = runs.start()
        while process.poll() is None and runs.captioned == before:
            time.sleep(0.005)
        time.sleep(chance.uniform(0.0, 1.0) * seconds / kills)
        hits += process.poll() is None
        process.kill()
        process.communicate()
    return hits


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """Mount a file system of so many bytes; give whether that could be done."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def filled(runs: Runs, home: Path, mounted: bool, step: int) -> tuple[int, list[str]]:
    """Give the command again with a little more room each time; return how often it was full."""
    full, problems, size = 0, [], step
    while True:
        code, told = runs.finish(None if mounted else size)
        if code in (0, 1) and "cannot be written" not in told:
            return full, problems
        if code != 1 or "Traceback" in told or "Make room" not in told:
            problems.append(f"a full disk ended with {code}: {told[-300:]}")
            return full, problems
        full += 1
        size += step
        if mounted:
            again = ["mount", "-o", f"remount,size={size}", str(home)]
            subprocess.run(again, check=True)


def compare(name: str, found: Path, expected: Path) -> list[str]:
    ours, wanted = files_of(found), files_of(expected)
    if ours == wanted:
        return []
    differing = [each for each in {**ours, **wanted} if ours.get(each) != wanted.get(each)]
    return [f"{name}: {len(differing)} files differ, {differing[0]} among them"]


def run(home: Path, model: str | None, images: int, kills: int, seed: int) -> dict[str, object]:
    chance, problems, hits, full, twice = random.Random(seed), [], 0, 0, 0
    folder = home / "images"
    make_folder(folder, images)
    start = time.monotonic()
    for number, form in enumerate(FORMATS):
        whole = Runs(folder, home / f"whole {form}" / f"rows.{form}", model)
        begun = time.monotonic()
        code, told = whole.finish()
        seconds = time.monotonic() - begun
        if code != 1:
            problems.append(f"undisturbed, it ended with {code}: {told[-300:]}")
        own = kills // len(FORMATS) + (number < kills % len(FORMATS))
        cut = Runs(folder, home / f"cut {form}" / f"rows.{form}", model)
        hits += killed(cut, own, seconds / 2, chance)
        code, told = cut.finish()
        if code != 1 or "Traceback" in told:
            problems.append(f"{form}, killed: it ended with {code}: {told[-300:]}")
        problems += compare(f"{form}, killed", cut.output.parent, whole.output.parent)
        twice += cut.captioned - whole.captioned
        room = home / f"full {form}"
        step = 1_000_000 + sum(map(len, files_of(whole.output.parent).values())) // 3
        with small_disk(room, step) as mounted:
            tight = Runs(folder, room / f"rows.{form}", model)
            times, wrong = filled(tight, room, mounted, step)
            full += times
            problems += wrong
            problems += compare(f"{form}, full disk", room, whole.output.parent)
        print(
            f"{form}: killed {own} times, full {times} times, {len(problems)} problems", flush=True
        )
    for problem in problems:
        print(problem)
    return {
        "images": images,
        "formats": len(FORMATS),
        "kills": kills,
        "kills_at_work": hits,
        "captioned_twice": twice,
        "batch": BATCH,
        "full_disks": full,
        "disks": "tmpfs" if os.geteuid() == 0 else "limited files",
        "problems": len(problems),
        "seconds": round(time.monotonic() - start, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a model directory; the packaged model by default")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with tempfile.TemporaryDirectory() as folder:
        report = run(Path(folder), options.model, options.images, options.kills, options.seed)
    print(json.dumps(report))
    return 1 if report["problems"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
