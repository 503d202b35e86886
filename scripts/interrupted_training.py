"""Kill feature extraction and training at random moments, and check that nothing is lost.

    python scripts/interrupted_training.py --feature-kills 10 --training-kills 30
    python scripts/interrupted_training.py --images 600 --epochs 30 --processes 3

Images and captions are generated; some images are damaged. An undisturbed run gives the expected
files. Then `captioning features` and `captioning train` are killed (``kill -9``) after random times
and started again until they finish. The stored features and the final weights must equal the
expected ones byte for byte. ``training_resumed_from`` is the number of different steps from which
training resumed.

With several processes, torchrun starts the commands, and a random process is killed each time. The
order of stored features then depends on the kills, so their checksums are compared by image.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from captioning.cli.main import main as run_command
from captioning.features.content_digests import DIGEST_BYTES
from captioning.features.records import RecordFile
from captioning.training import encoded_data, run  # noqa: F401  (imported before the forks)

_FORK = multiprocessing.get_context("fork")  # a run starts at once, as torch is imported already
_WORDS = ("red", "green", "blue", "dog", "cat", "bird", "runs", "sits", "on", "under", "a", "the")
_ENCODER = ("--encoder.name", "timm:test_resnet", "--encoder.weights", "None")
_SMALL = ("--encoder.image-size", "64", "--workers", "0", "--device", "cpu")
_DECODER = [f"--decoder.{name}-size=16" for name in ("embedding", "hidden", "attention")]
_TRAINING = (
    *("--training.save-every", "1", "--training.batch-size", "128", "--training.patience", "0"),
    *("--training.epochs",),
)


def make_data(folder: Path, images: int) -> Path:
    """Fill a folder with images and captions; every fiftieth image is damaged."""
    lines = []
    for number in range(images):
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        path = folder / f"{number}.jpg"
        coarse.resize((320, 240), Image.Resampling.BICUBIC).save(path)
        if number % 50 == 49:
            path.write_bytes(path.read_bytes()[:300])
        split = "val" if number % 10 == 0 else "train"
        captions = [" ".join(rng.choice(_WORDS, 6)) for _ in range(2)]
        lines.append(json.dumps({"image": path.name, "captions": captions, "split": split}))
    data = folder / "captions.jsonl"
    data.write_text("\n".join(lines), encoding="utf-8")
    return data


class Job:
    """A command in several processes, with its messages in a file, and the methods of a process.

    Attributes:
        processes: Number of processes of each job; with 1, no job is started.
        rng: Selects the process that :meth:`kill` ends.
    """

    processes = 1
    rng = random.Random(0)

    def __init__(self, words: Sequence[str], log: Path) -> None:
        job = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        job += [str(self.processes), "-m", "captioning", *words]
        with log.open("a") as file:
            self._process = subprocess.Popen([sys.executable, *job], stderr=file)

    @property
    def exitcode(self) -> int | None:
        """Exit code; None while the job runs."""
        return self._process.poll()

    def is_alive(self) -> bool:
        """Return whether the job runs."""
        return self.exitcode is None

    def join(self, seconds: float | None = None) -> None:
        """Wait for the end of the job, at most for some seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def kill(self) -> None:
        """Kill a random process of the job, once torchrun has started them.

        torchrun then ends the others.
        """
        with contextlib.suppress(psutil.NoSuchProcess):
            launcher = psutil.Process(self._process.pid)
            while self.is_alive() and len(found := launcher.children()) < self.processes:
                time.sleep(0.05)
            if self.is_alive():
                self.rng.choice(found).kill()


def start(words: Sequence[str], log: Path) -> BaseProcess | Job:
    """Start a command in a process of its own, with its messages in a file."""
    if Job.processes > 1:
        return Job(words, log)

    def target() -> None:
        with log.open("a") as file:
            os.dup2(file.fileno(), sys.stderr.fileno())
        run_command(words)

    process = _FORK.Process(target=target)
    process.start()
    return process


def finish(words: Sequence[str], log: Path) -> float:
    """Run a command to its end, and return its duration in seconds."""
    started = time.monotonic()
    process = start(words, log)
    process.join()
    if process.exitcode not in (0, 1):  # 1: some images cannot be read
        raise SystemExit(f"exit code {process.exitcode}: {log.read_text()[-2000:]}")
    return time.monotonic() - started


def choose_moments(words: Sequence[str], log: Path, kills: int) -> tuple[float, float]:
    """Run a command to its end, and return the earliest and latest moment of a kill, in seconds.

    The start-up is measured by a second run, which has nothing to do. On average, each killed run
    does as much work as it takes to reach the end with the last one.
    """
    seconds = finish(words, log)
    startup = finish(words, log)
    return 0.8 * startup, startup + 2 * max(seconds - startup, 0) / max(kills, 1)


def kill_repeatedly(
    words: Sequence[str],
    log: Path,
    kills: int,
    *,
    moments: tuple[float, float],
    rng: random.Random,
) -> int:
    """Kill a command at random moments, and let it finish at last.

    Args:
        words: Arguments of the command.
        log: File of its messages.
        kills: Number of kills.
        moments: Earliest and latest moment, in seconds after the start of the command.
        rng: Draws the moments.

    Returns:
        How often the command was killed before its end.
    """
    hits = 0
    for _ in range(kills):
        process = start(words, log)
        process.join(rng.uniform(*moments))
        hits += process.is_alive()
        process.kill()
        process.join()
    finish(words, log)
    return hits


def read_files(folder: Path, pattern: str) -> dict[str, bytes]:
    """Return the content of files by their path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob(pattern)}


def read_features(folder: Path) -> dict[str, bytes]:
    """Return the checksums of the stored views of each image by the digest of its content."""
    found = {}
    for path in folder.glob("*/*.index"):
        views = json.loads((path.parent / "store.json").read_text())["views"]
        for record in RecordFile(path, DIGEST_BYTES + 4 * views).read():
            if record is not None:
                digest = record[:DIGEST_BYTES].hex()
                found[f"{path.parent.name}/{digest}"] = record[DIGEST_BYTES:]
    return found


def count_differences(name: str, found: dict[str, bytes], expected: dict[str, bytes]) -> int:
    """Print the files that differ, and return their number."""
    different = [
        file for file in sorted({*found, *expected}) if found.get(file) != expected.get(file)
    ]
    for file in different:
        print(f"{name}: {file} differs")
    if not expected:
        print(f"{name}: no files")
    return len(different) + (not expected)


def interrupt_features(home: Path, data: Path, kills: int, rng: random.Random) -> dict[str, int]:
    """Kill the extraction of features, and compare all stored files."""
    words = ["features", "--data", f"jsonl:{data}", "--decoder.core", "attention"]
    words += [*_ENCODER, *_SMALL, "--cache"]
    moments = choose_moments([*words, str(home / "whole")], home / "features.log", kills)
    cut = [*words, str(home / "cut")]
    hits = kill_repeatedly(cut, home / "cut.log", kills, moments=moments, rng=rng)
    folders = [read_files(home / name, "**/*.[ir]*") for name in ("cut", "whole")]
    if Job.processes > 1:
        folders = [read_features(home / name) for name in ("cut", "whole")]
    return {"features_killed": hits, "feature_problems": count_differences("features", *folders)}


def interrupt_training(
    home: Path, data: Path, kills: int, *, epochs: int, rng: random.Random
) -> dict[str, int]:
    """Kill training, and compare the weights of the best epoch."""
    words = ["train", "--data", f"jsonl:{data}", "--decoder.core", "attention", *_ENCODER, *_SMALL]
    words += [*_DECODER, *_TRAINING, str(epochs), "--cache", str(home / "whole"), "--output"]
    moments = choose_moments([*words, str(home / "run")], home / "run.log", kills)
    cut, log = [*words, str(home / "cut run")], home / "cut run.log"
    hits = kill_repeatedly(cut, log, kills, moments=moments, rng=rng)
    folders = [read_files(home / name, "model/*.safetensors") for name in ("cut run", "run")]
    return {
        "training_killed": hits,
        "training_resumed_from": len({*re.findall(r"Resuming from step (\d+)", log.read_text())}),
        "training_problems": count_differences("weights", *folders),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000, help="number of images")
    parser.add_argument("--feature-kills", type=int, default=10, help="kills of the extraction")
    parser.add_argument("--training-kills", type=int, default=30, help="kills of the training")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of the training")
    parser.add_argument("--processes", type=int, default=1, help="number of processes")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the kills")
    options = parser.parse_args()
    rng = Job.rng = random.Random(options.seed)
    Job.processes = options.processes
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "images").mkdir()
        data = make_data(home / "images", options.images)
        report = interrupt_features(home, data, options.feature_kills, rng)
        if options.training_kills:
            kills, epochs = options.training_kills, options.epochs
            report |= interrupt_training(home, data, kills, epochs=epochs, rng=rng)
    print(json.dumps(report))
    return 1 if report["feature_problems"] or report.get("training_problems") else 0


if __name__ == "__main__":
    raise SystemExit(main())
