"""Time and memory of training on data of COCO's size, which this script generates.

    python scripts/full_size_check.py FOLDER [--measure cross_entropy self_critical check epoch]

FOLDER gets 123,287 small JPEG files, 616,767 captions of made-up words in Karpathy's format (the
frequencies and lengths of the words are those of COCO) and random image vectors v of 1,280 values
(1.6 GB in all). Then each command runs in its own process. The time to the first step starts with
the process.
"""

import argparse
import dataclasses
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from captioning import RunConfig, TrainingConfig, train
from captioning.cli.progress import stderr_console
from captioning.cli.train_progress import TrainingProgressReport
from captioning.datasets import read_captions
from captioning.features.extraction import ExtractionConfig, plan_features
from captioning.features.row_extraction import DerivedRows, RowExtraction
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.encoder import Encoder
from captioning.nn.encoder_config import EncoderConfig

IMAGES, CAPTIONS = 123_287, 616_767
SPLITS = {"train": 82_783, "restval": 30_504, "val": 5_000, "test": 5_000}
MEASURES = ("cross_entropy", "self_critical", "check", "epoch")
_WORDS, _FOLLOWERS, _LONGEST = 28_000, 64, 24
_DRAWN = 300  # different drawings
_FIRST_STEP = "first step"


def main() -> None:
    """Generate what is missing, then run and print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--measure", nargs="*", choices=MEASURES, default=MEASURES)
    parser.add_argument("--run", choices=MEASURES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    if arguments.run:
        run_training(folder, arguments.run)
        return
    generate(folder)
    for name in arguments.measure:
        measure(folder, name)


def measure(folder: Path, name: str) -> None:
    """Run one command, and print its time and its peak memory."""
    command = [sys.executable, __file__, str(folder), "--run", name]
    if name == "check":
        data = [*("data", "check", "--data", data_spec(folder))]
        command = [sys.executable, "-m", "captioning", *data]
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = next(
        (
            f"{time.monotonic() - start:.1f} s to the first step, "
            for line in process.stdout
            if line.startswith(_FIRST_STEP)
        ),
        "",
    )
    process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    print(
        f"{name}: {first}{seconds:.1f} s in all, peak memory {usage.ru_maxrss / 1e6:.2f} GB, "
        f"exit code {os.waitstatus_to_exitcode(status)}",
        flush=True,
    )


def run_training(folder: Path, name: str) -> None:
    """Train until the first step, or for an epoch with a small decoder."""
    output = folder / "runs" / f"{name}-{os.getpid()}"
    report = TrainingProgressReport(stderr_console())
    if name == "epoch":
        with report:
            config = dataclasses.replace(small_config(folder, output), validation_limit=500)
            train(config, report.callback)
        return
    training = TrainingConfig(
        objective=name, captions_per_image=5 if name == "self_critical" else 1
    )
    config = RunConfig(
        data=(data_spec(folder),),
        output=output,
        cache=folder / "features",
        init_from=folder / "runs" / "initial" / "model" if name == "self_critical" else None,
        training=training,
        validation_limit=100,  # self-critical training validates the initial model first
    )

    def stop(progress: object) -> None:
        print(_FIRST_STEP, flush=True)
        raise SystemExit

    with report:
        train(config, dataclasses.replace(report.callback, on_step=stop))


def small_config(folder: Path, output: Path, **training: int) -> RunConfig:
    """Return a run of one epoch that computes little."""
    return RunConfig(
        data=(data_spec(folder),),
        output=output,
        cache=folder / "features",
        decoder=DecoderConfig(embedding_size=32, hidden_size=32),
        training=TrainingConfig(epochs=1, **training),
        search_images=0,
    )


def data_spec(folder: Path) -> str:
    """Return the name of the generated data set."""
    return f"karpathy:{folder / 'dataset.json'}@{folder / 'images'}"


def generate(folder: Path) -> None:
    """Write images, captions, features, and an initial model, unless they exist."""
    if not (folder / "dataset.json").is_file():
        write_images(folder / "images")
        write_captions(folder / "dataset.json")
    write_features(folder)
    initial = folder / "runs" / "initial"
    if not (initial / "model").is_dir():
        train(dataclasses.replace(small_config(folder, initial, max_steps=5), validation_limit=50))


def write_images(folder: Path) -> None:
    """Write small JPEG files with different contents: drawings with a number after their end."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(_DRAWN):
        file = io.BytesIO()
        colors = random.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(colors).resize((64, 48)).save(file, "jpeg")
        drawn.append(file.getvalue())
    for number in range(IMAGES):
        (folder / f"{number:06}.jpg").write_bytes(drawn[number % _DRAWN] + b"%d" % number)


def write_captions(path: Path) -> None:
    """Write Karpathy's format, with captions from a random table of successors of each word."""
    captions = [" ".join(words) for words in make_captions()]
    splits = [name for name, count in SPLITS.items() for _ in range(count)]
    counts = [CAPTIONS // IMAGES + (number < CAPTIONS % IMAGES) for number in range(IMAGES)]
    images = []
    for number, (split, count) in enumerate(zip(splits, counts, strict=True)):
        own = [captions.pop() for _ in range(count)]
        images.append(
            {
                "filename": f"{number:06}.jpg",
                "imgid": number,
                "split": split,
                "sentences": [
                    {"raw": f"{text.capitalize()}.", "tokens": text.split(), "imgid": number}
                    for text in own
                ],
            }
        )
    path.write_text(json.dumps({"images": images, "dataset": "generated"}))


def make_captions() -> Iterator[list[str]]:
    """Yield captions with about 10.5 words."""
    random = np.random.default_rng(0)
    syllables = [first + vowel for first in "bdfgklmnprstvwz" for vowel in "aeiou"]
    words = []
    for number in range(_WORDS):
        word, rank = "", number
        while rank >= 0:
            word += syllables[rank % len(syllables)]
            rank = rank // len(syllables) - 1
        words.append(word)

    def draw(count: int, shape: Sequence[int]) -> np.ndarray:
        shares = 1 / (np.arange(count) + 2.7) ** 1.1
        return random.choice(count, shape, p=shares / shares.sum())

    followers = draw(_WORDS, (_WORDS, _FOLLOWERS))
    lengths = np.clip(np.round(random.gamma(18, 10.5 / 18, CAPTIONS)), 6, _LONGEST).astype(int)
    text = np.empty((CAPTIONS, _LONGEST), np.int32)
    text[:, 0] = draw(50, (CAPTIONS,))
    for position in range(1, _LONGEST):
        chosen = draw(_FOLLOWERS, (CAPTIONS,))
        text[:, position] = followers[text[:, position - 1], chosen]
    for row, length in zip(text, lengths.tolist(), strict=True):
        yield [words[number] for number in row[:length].tolist()]


def write_features(folder: Path) -> None:
    """Store random vectors for all images, as if an encoder had computed them."""
    encoder = Encoder(EncoderConfig())

    for split, hflip in (("train+restval", True), ("val", False)):
        config = ExtractionConfig(hflip=hflip)
        images = [image.ref for image in read_captions(data_spec(folder), split=split).images]
        planned = plan_features(encoder, images, folder / "features", config)
        shape = (config.views, 1, encoder.feature_size)

        def draw(
            digests: Sequence[bytes], shape: tuple[int, int, int] = shape
        ) -> Iterator[DerivedRows]:
            for start in range(0, len(digests), 4096):
                part = digests[start : start + 4096]
                yield part, torch.rand(len(part), *shape)

        source = dataclasses.replace(planned._source, derive=draw)
        RowExtraction(source, images, folder / "features").run()


if __name__ == "__main__":
    main()
