"""Fuzz the image reader: damaged images must be read or refused with an ImageError.

    python scripts/fuzz_images.py --tries 10000 --seed 0 --time-limit 10 --memory 2

Each try damages one of about forty small files in the formats and modes that Pillow writes. It is
read twice, with and without ``allow_truncated``, in a process with limited memory. Any result
but an image or an ImageError is a problem: another exception, a lack of memory, a crash, or a
timeout. ``--only N`` repeats one try; ``--keep`` saves the files with problems in a folder. The
exit code is 1 if there was a problem.
"""

import argparse
import json
import multiprocessing
import os
import resource
import time
import traceback
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from fuzz_image_samples import interlaced, valid_images

from captioning.errors import ImageError
from captioning.images.decode import MAX_PIXELS, read_image

MODES = {True: "with allow_truncated", False: "by default"}
Generator = np.random.Generator


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
