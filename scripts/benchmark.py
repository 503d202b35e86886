"""Measure the speed of captioning against its limits, peers and other checkouts.

    python scripts/benchmark.py caption --images photos --limit 500 --against ../before
    python scripts/benchmark.py decode --search width=3 rerank_weight=0 --against textbook
    python scripts/benchmark.py train --precision bfloat16
    python scripts/benchmark.py train --processes 2 --threads 1
    python scripts/benchmark.py score --captions Flickr8k.token.txt --against pycocoevalcap
    python scripts/benchmark.py scaling --curves width batch --figure scaling.png

All systems of a run alternate (A B C A B C), each in a process of its own, after a warm-up. Ratios
are computed in each round; the median is reported. Progress and a table go to standard error, and
one line of JSON to standard output.

Peers are other checkouts of this project; textbook (one image at a time, full decode, float32, a
beam search in Python, the same weights); vit-gpt2 (transformers, random weights, beam 3, 16 words);
and, for score, pycocoevalcap.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.images import list_images, make_folder
from benchmarks.measure import (
    Ratios,
    Run,
    System,
    describe_machine,
    faster,
    measure,
    print_report,
    report,
)
from benchmarks.options import (
    MACHINE_FLAGS,
    Options,
    add_command,
    add_image_options,
    caption_flags,
    checkouts,
    task_settings,
)
from benchmarks.scaling import CURVES, draw_curves, print_curves
from benchmarks.systems import CaptionCommand, ImportTorch, Job, Place, Worker

STAGES = {"reading": "read", "encoder": "encode", "decoder": "decode"}
NETWORKS = {"textbook": "textbook", "vit-gpt2": "vit_gpt2"}
SCORERS = {"pycocoevalcap": "pycocoevalcap"}


def caption(options: Options, workspace: Path) -> dict[str, Any]:
    """Files to JSON lines through the command line, and each stage alone."""
    folder, first = workspace / "images", workspace / "first"
    images = make_folder(folder, list_images(options.images, workspace), options.limit)
    make_folder(first, images, 1)
    place, flags = Place(threads=options.threads), caption_flags(options)
    settings = task_settings(options, images=images[: options.stage_limit])
    systems: list[System] = [
        CaptionCommand("ours", folder, len(images), flags, place),
        CaptionCommand("start-up", first, 1, flags, place),
        ImportTorch(place),
        *(Worker(name, task, settings, place) for name, task in STAGES.items()),
    ]
    if options.journal:
        module = "benchmarks.timed_command"
        systems.append(CaptionCommand("timed", folder, len(images), flags, place, module=module))
    peers = start_networks("caption", options, images)
    for name, there in checkouts(options).items():
        flags = caption_flags(options, without=MACHINE_FLAGS)
        peers.append(CaptionCommand(name, folder, len(images), flags, there))
    ratios: Ratios = {
        "sum of the stages / ours": lambda runs: stage_cost(runs) / runs["ours"].cost,
        "sum of the stages / ours without start-up": (
            lambda runs: stage_cost(runs) / running_cost(runs)
        ),
        "start-up without import torch, in seconds": (
            lambda runs: runs["start-up"].seconds - runs["import torch"].seconds
        ),
    }
    return finish("caption", options, systems, peers, ratios)


def stage_cost(runs: Mapping[str, Run]) -> float:
    """Return the seconds per image of all stages, one after the other."""
    return sum(runs[name].cost for name in STAGES)


def running_cost(runs: Mapping[str, Run]) -> float:
    """Return the seconds per image after the first image."""
    ours, first = runs["ours"], runs["start-up"]
    return (ours.seconds - first.seconds) / (ours.units - first.units)


def encode(options: Options, workspace: Path) -> dict[str, Any]:
    """The encoder on tensors in memory."""
    return compare_images("encode", options, workspace)


def decode(options: Options, workspace: Path) -> dict[str, Any]:
    """The search on features in memory, and the matrix products of its steps."""
    return compare_images("decode", options, workspace, limit="products")


def compare_images(
    task: str, options: Options, workspace: Path, *, limit: str | None = None
) -> dict[str, Any]:
    """Measure a task on images in this checkout, its limit, and the peers."""
    found = list_images(options.images, workspace)
    images = make_folder(workspace / "images", found, options.limit)
    settings = task_settings(options, images=images)
    there = task_settings(options, images=images, without=MACHINE_FLAGS)
    networks = start_networks(task, options, images)
    return compare(task, options, settings, there, limit=limit, peers=networks)


def train(options: Options, workspace: Path) -> dict[str, Any]:
    """Teacher forcing on cached features, and its matrix products, forward and backward."""
    if (count := options.processes) == 1:
        settings = task_settings(options)
        return compare("train", options, settings, settings, limit="train_products")
    options.threads = options.threads or 1
    if count * options.threads > (os.cpu_count() or 1):
        sys.exit(f"{count} processes of {options.threads} threads need more than all cores.")
    settings, name = task_settings(options), f"{count} processes"
    ours = Worker("ours", "train", settings, Place(threads=options.threads))
    job = Job(name, "train", settings, processes=count, threads=options.threads)
    return finish("train", options, [ours, job], [], {f"{name} / ours": faster(name, than="ours")})


def score(options: Options, workspace: Path) -> dict[str, Any]:
    """BLEU, ROUGE-L and CIDEr against five references, and the reward of training."""
    settings, place = task_settings(options), Place(threads=options.threads)
    peers = [Worker(name, SCORERS[name], settings, place)
             for name in options.against if name in SCORERS]  # fmt: skip
    reward = Worker("reward", "reward", settings, place)
    return compare("score", options, settings, settings, peers=peers, others=[reward])


def scaling(options: Options, workspace: Path) -> dict[str, Any]:
    """Curves over images, beam width, batch size, vocabulary and threads, with a figure."""
    found = list_images(options.images, workspace)
    curves = {}
    for path in options.add:
        curves |= json.loads(path.read_text())["curves"]
    for name in options.curves:
        print(f"curve: {name}", file=sys.stderr)
        curves[name] = CURVES[name](options, found, workspace)
    if options.figure:
        draw_curves(curves, options.figure)
    return {
        "benchmark": "scaling",
        "curves": curves,
        "options": task_settings(options),
        "machine": describe_machine(),
    }


def compare(
    task: str,
    options: Options,
    settings: Mapping[str, Any],
    peer_settings: Mapping[str, Any],
    *,
    limit: str | None = None,
    peers: Sequence[System] = (),
    others: Sequence[System] = (),
) -> dict[str, Any]:
    """Measure a task in this checkout, its limit, other systems, and the peers."""
    place = Place(threads=options.threads)
    systems: list[System] = [Worker("ours", task, settings, place), *others]
    ratios: Ratios = {}
    if limit:
        systems.append(Worker("products", limit, settings, place))
        ratios = {"products / ours": faster("ours", than="products")}
    there = [Worker(name, task, peer_settings, own) for name, own in checkouts(options).items()]
    return finish(task, options, systems, [*peers, *there], ratios)


def finish(
    name: str,
    options: Options,
    systems: Sequence[System],
    peers: Sequence[System],
    ratios: Ratios,
) -> dict[str, Any]:
    """Measure all systems and return the report."""
    against = {f"times faster than {peer.name}": faster("ours", than=peer.name) for peer in peers}
    runs = measure([*systems, *peers], options.repeats, warmups=options.warmups)
    unit = "caption" if name == "train" else "image"
    return report(name, runs, {**ratios, **against}, task_settings(options), unit)


def start_networks(task: str, options: Options, images: Sequence[Path]) -> list[System]:
    """Start the peers that do not come from a checkout."""
    settings = task_settings(options, images=images[: options.peer_limit], task=task)
    place = Place(threads=options.threads)
    return [
        Worker(name, NETWORKS[name], settings, place)
        for name in options.against
        if name in NETWORKS
    ]


def create_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add = add_command(commands, caption, tuple(NETWORKS), 200)
    add_image_options(add)
    add("--stage-limit", type=int, default=128,
        help="number of images for each stage alone (default: 128)")  # fmt: skip
    add("--journal", action="store_true", help="measure the time of journal and output as well")
    for command in (encode, decode):
        add_image_options(add_command(commands, command, tuple(NETWORKS), 128))
    add = add_command(commands, train, (), 5120, "captions")
    add("--precision", default="float32", choices=("float32", "bfloat16"))
    add("--core", default="stack", help="core of the decoder: stack (one vector per image), or "
        "attention (81 positions) (default: stack)")  # fmt: skip
    add("--vocabulary", type=int, default=2550, help="number of words (default: 2550)")
    add("--batch-size", type=int, default=128, help="captions per batch (default: 128)")
    add("--captions-per-image", type=int, default=1, help="in a batch (default: 1)")
    add("--processes", type=int, default=1, metavar="N", help="compare one process with N that "
        "share each batch, with --threads processors each (default: 1, no comparison)")  # fmt: skip
    add = add_command(commands, score, tuple(SCORERS), 5000)
    add("--captions", type=Path, help="file with 5 captions per image (default: random words)")
    add = add_command(commands, scaling, (), 64)
    add_image_options(add)
    add("--curves", nargs="*", choices=CURVES, default=list(CURVES), metavar="CURVE",
        help=f"curves to measure: {', '.join(CURVES)} (default: all)")  # fmt: skip
    add("--max-images", type=int, default=1000, help="end of the curve over images (default: 1000)")
    add("--add", nargs="+", type=Path, default=[], metavar="JSON",
        help="outputs of earlier runs, whose curves are added")  # fmt: skip
    add("--figure", type=Path, metavar="PNG", help="draw the curves (needs matplotlib)")
    return parser


def main() -> None:
    options = create_parser().parse_args()
    run = options.run
    del options.run
    with tempfile.TemporaryDirectory() as name:
        result = run(options, Path(name))
    if "curves" in result:
        print_curves(result["curves"])
    else:
        print_report(result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
