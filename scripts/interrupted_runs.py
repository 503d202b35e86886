"""Kill a run over a folder at random moments, fill its disk, and check that nothing is lost.

    python scripts/interrupted_runs.py --model runs/small/model --kills 50 --images 1000

The folder holds generated JPEGs, some of them damaged. An undisturbed run gives the expected
output. Then, for each format, the same command is killed (``kill -9``) after a random time and
started again until it finishes. After that it runs in a file system that is nearly full and grows
each time (with root rights; otherwise the size of its files is limited). In the end every output
must equal the expected one byte for byte, and only images of the batches in which a run was killed
may have been captioned twice.
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
RUN_AND_COUNT = """
import sys
from captioning.inference.generation import CaptionGenerator
real = CaptionGenerator._generate_chunk
def counted(self, pixels, method):
    with open(sys.argv[1], "a") as file:
        file.write(f"{len(pixels)}\\n")
    return real(self, pixels, method)
CaptionGenerator._generate_chunk = counted
from captioning.cli.main import main
main(sys.argv[2:])
"""


def make_folder(folder: Path, images: int) -> None:
    """Fill a folder with images; every twentieth of them is damaged."""
    folder.mkdir()
    for number in range(images):
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        path = folder / f"photo {number}.jpg"
        coarse.resize((160, 120), Image.Resampling.BICUBIC).save(path, quality=85)
        if number % 20 == 19:
            path.write_bytes(path.read_bytes()[: number % 700])


class RepeatedRun:
    """A command that can be started again and again.

    Args:
        folder: Folder of the images.
        output: Output of the command.
        model: Model directory; None for the packaged model.
    """

    def __init__(self, folder: Path, output: Path, model: str | None) -> None:
        self.output = output
        self.count_file = output.parent.parent / f"count of {output.parent.name}"
        self.words = [sys.executable, "-c", RUN_AND_COUNT, str(self.count_file)]
        self.words += ["caption", str(folder), "-o", str(output), "--batch-size", str(BATCH)]
        self.words += ["--precision", "float32"]  # captions do not depend on the batch
        self.words += ["--model", model] if model else []

    def start(self, max_file_size: int | None = None) -> "subprocess.Popen[bytes]":
        """Start the command, optionally with a limit on the size of its files in bytes."""
        words = self.words
        if max_file_size is not None:
            words = ["prlimit", f"--fsize={max_file_size}", *words]
        return subprocess.Popen(words, stderr=subprocess.PIPE)

    def finish(self, max_file_size: int | None = None) -> tuple[int, str]:
        """Run the command to its end; return its exit code and its messages."""
        process = self.start(max_file_size)
        _, messages = process.communicate()
        return process.returncode, messages.decode("utf-8", "replace")

    @property
    def captioned(self) -> int:
        """Number of images that were captioned by all runs together."""
        if not self.count_file.exists():
            return 0
        return sum(map(int, self.count_file.read_text().split()))


def read_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a run, except its journal."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".journal" not in path.name
    }


def kill_repeatedly(runs: RepeatedRun, kills: int, seconds: float, rng: random.Random) -> int:
    """Kill a run at random moments while it captions.

    Args:
        runs: The run.
        kills: Number of kills.
        seconds: Duration of the captioning in an undisturbed run.
        rng: Draws the moments.

    Returns:
        How often the run was still at work when it was killed.
    """
    hits = 0
    for _ in range(kills):
        before = runs.captioned
        process = runs.start()
        while process.poll() is None and runs.captioned == before:
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 1.0) * seconds / kills)
        hits += process.poll() is None
        process.kill()
        process.communicate()
    return hits


@contextmanager
def mount_small_disk(folder: Path, size: int) -> Iterator[bool]:
    """Mount a file system of ``size`` bytes; yield whether that was possible."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def run_on_growing_disk(
    runs: RepeatedRun, folder: Path, mounted: bool, step: int
) -> tuple[int, list[str]]:
    """Run until the disk is large enough; it grows by ``step`` bytes after each failure.

    Returns:
        How often the disk was full, and the problems found.
    """
    full, size = 0, step
    while True:
        code, messages = runs.finish(None if mounted else size)
        if code in (0, 1) and "cannot write" not in messages:
            return full, []
        if code != 1 or "Traceback" in messages or "Free some space" not in messages:
            return full, [f"a full disk ended with exit code {code}: {messages[-300:]}"]
        full += 1
        size += step
        if mounted:
            subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def compare_folders(name: str, found: Path, expected: Path) -> list[str]:
    """Return a problem if two folders have different files."""
    ours, wanted = read_files(found), read_files(expected)
    if ours == wanted:
        return []
    different = [file for file in {**ours, **wanted} if ours.get(file) != wanted.get(file)]
    return [f"{name}: {len(different)} files differ, for example {different[0]}"]


def check_format(
    home: Path, format_name: str, model: str | None, kills: int, rng: random.Random
) -> tuple[dict[str, int], list[str]]:
    """Disturb the runs of one format; return the counts of the report and the problems."""
    folder, problems = home / "images", []
    whole = RepeatedRun(folder, home / f"whole {format_name}" / f"rows.{format_name}", model)
    begun = time.monotonic()
    code, messages = whole.finish()
    seconds = time.monotonic() - begun
    if code != 1 or not whole.captioned:
        problems.append(f"undisturbed run ended with exit code {code}: {messages[-300:]}")
    cut = RepeatedRun(folder, home / f"cut {format_name}" / f"rows.{format_name}", model)
    hits = kill_repeatedly(cut, kills, seconds / 2, rng)
    code, messages = cut.finish()
    if code != 1 or "Traceback" in messages:
        problems.append(f"{format_name}, killed: exit code {code}: {messages[-300:]}")
    problems += compare_folders(f"{format_name}, killed", cut.output.parent, whole.output.parent)
    small = home / f"full {format_name}"
    step = 1_000_000 + sum(map(len, read_files(whole.output.parent).values())) // 3
    with mount_small_disk(small, step) as mounted:
        tight = RepeatedRun(folder, small / f"rows.{format_name}", model)
        full, disk_problems = run_on_growing_disk(tight, small, mounted, step)
        problems += disk_problems
        problems += compare_folders(f"{format_name}, full disk", small, whole.output.parent)
    print(f"{format_name}: killed {kills} times, full {full} times, {len(problems)} problems")
    twice = cut.captioned - whole.captioned
    return {"kills_at_work": hits, "captioned_twice": twice, "full_disks": full}, problems


def run(home: Path, model: str | None, images: int, kills: int, seed: int) -> dict[str, object]:
    """Disturb the runs of all formats and return the report."""
    start, rng = time.monotonic(), random.Random(seed)
    make_folder(home / "images", images)
    totals, problems = dict.fromkeys(("kills_at_work", "captioned_twice", "full_disks"), 0), []
    for number, format_name in enumerate(FORMATS):
        share = kills // len(FORMATS) + (number < kills % len(FORMATS))
        counts, found = check_format(home, format_name, model, share, rng)
        totals = {name: total + counts[name] for name, total in totals.items()}
        problems += found
    for problem in problems:
        print(problem)
    return {
        "images": images,
        "formats": len(FORMATS),
        "kills": kills,
        "batch": BATCH,
        **totals,
        "disks": "tmpfs" if os.geteuid() == 0 else "limited files",
        "problems": len(problems),
        "seconds": round(time.monotonic() - start, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="model directory (default: the packaged model)")
    parser.add_argument("--images", type=int, default=1000, help="number of images")
    parser.add_argument("--kills", type=int, default=50, help="number of kills, all formats")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the kills")
    options = parser.parse_args()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with tempfile.TemporaryDirectory() as folder:
        report = run(Path(folder), options.model, options.images, options.kills, options.seed)
    print(json.dumps(report))
    return 1 if report["problems"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
