"""Measure the speed of captioning against its limits, peers and other checkouts.

    python scripts/benchmark.py caption --images photos --limit 500 --against ../before
    python scripts/benchmark.py decode --search width=3 rerank_weight=0

All systems of a run alternate (A B C A B C), each in a process of its own, after a warm-up. Ratios
are computed in each round; the median is reported. Progress and a table go to standard error, and
one line of JSON to standard output.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.images import list_images, make_folder
from benchmarks.measure import Ratio, System, measure, print_report, report
from benchmarks.systems import CaptionCommand, Place, Worker

Options = argparse.Namespace


def caption(options: Options, workspace: Path) -> dict[str, Any]:
    """Files to JSON lines through the command line, and each stage alone."""
    folder = workspace / "images"
    images = make_folder(folder, list_images(options.images, workspace), options.limit)
    few = [str(path) for path in images[: options.stage_limit]]
    settings = {**settings_of(options), "images": few}
    flags = flags_of(options)
    first = workspace / "one image"
    make_folder(first, images, 1)
    place = Place(threads=options.threads)
    systems: list[System] = [
        CaptionCommand("ours", folder, len(images), flags, place),
        CaptionCommand("start-up", first, 1, flags, place),
        *(Worker(name, task, settings, place) for name, task in
          (("reading", "read"), ("encoder", "encode"), ("decoder", "decode"))),
    ]  # fmt: skip
    ratios = [Ratio("share of the sum of the stages", ("reading", "encoder", "decoder"), "ours")]
    if options.against:
        peer_flags = flags_of(options, peer=True)
        there = peer_place(options)
        systems.append(CaptionCommand("peer", folder, len(images), peer_flags, there))
        ratios.append(Ratio("times faster than the peer", ("peer",), "ours"))
    return finish("caption", systems, ratios, options)


def encode(options: Options, workspace: Path) -> dict[str, Any]:
    """The encoder on tensors in memory."""
    return run_task("encode", options, workspace)


def decode(options: Options, workspace: Path) -> dict[str, Any]:
    """The search on features in memory, and the matrix products of its steps."""
    return run_task("decode", options, workspace, limit="products")


def run_task(
    task: str, options: Options, workspace: Path, *, limit: str | None = None
) -> dict[str, Any]:
    """Measure a task in this checkout, its limit, and the task of a peer."""
    images = make_folder(
        workspace / "images", list_images(options.images, workspace), options.limit
    )
    settings = {**settings_of(options), "images": [str(path) for path in images]}
    place = Place(threads=options.threads)
    systems: list[System] = [Worker("ours", task, settings, place)]
    ratios = []
    if limit:
        systems.append(Worker(limit, limit, settings, place))
        ratios.append(Ratio(f"share of the {limit}", (limit,), "ours"))
    if options.against:
        settings = {**settings, **settings_of(options, peer=True)}
        systems.append(Worker("peer", task, settings, peer_place(options)))
        ratios.append(Ratio("times faster than the peer", ("peer",), "ours"))
    return finish(task, systems, ratios, options)


def finish(
    name: str, systems: list[System], ratios: list[Ratio], options: Options
) -> dict[str, Any]:
    """Measure all systems and return the report."""
    runs = measure(systems, options.repeats)
    return report(name, runs, ratios, {k: jsonable(v) for k, v in vars(options).items()}, "image")


def peer_place(options: Options) -> Place:
    checkout = Path(options.against).resolve()
    if not (checkout / "captioning").is_dir():
        sys.exit(
            f"benchmark: --against is {options.against!r}, which is not a checkout of this "
            "project: it has no folder 'captioning'."
        )
    return Place(checkout, options.against_python or sys.executable, options.threads)


def settings_of(options: Options, *, peer: bool = False) -> dict[str, Any]:
    """Return the arguments of the tasks; a peer has its own backend and precision."""
    settings = {
        "model": options.model,
        "batch_size": options.batch_size,
        "workers": options.workers,
        "threads": options.threads,
        "search": dict(options.search),
    }
    own = {"backend": options.backend, "precision": options.precision}
    return {**settings, **(dict.fromkeys(own) if peer else own)}


def flags_of(options: Options, *, peer: bool = False) -> list[str]:
    """Return the flags of ``captioning caption``."""
    values = settings_of(options, peer=peer)
    search, _ = values.pop("search"), values.pop("threads")
    values |= search
    flags = []
    for name, value in values.items():
        if value is not None:
            flags += [f"--{name.replace('_', '-')}", str(value)]
    return flags


def parse_setting(text: str) -> tuple[str, Any]:
    """Return the name and the value of a search setting."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a setting such as width=3 or block_repeated_words=false"
        ) from None


def jsonable(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def add_command(commands: Any, run: Callable[..., Any], limit: int) -> argparse.ArgumentParser:
    """Add a command with the options that all commands share."""
    text = (run.__doc__ or "").splitlines()[0]
    parser = commands.add_parser(run.__name__, help=text, description=text)
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("--repeats", type=int, default=3, help="measured rounds (default: 3)")
    add("--threads", type=int, help="processors to use (default: all)")
    add("--limit", type=int, default=limit, help=f"number of images (default: {limit})")
    add("--images", type=Path, help="folder of images, repeated if it has fewer than the limit "
        "(default: drawn images)")  # fmt: skip
    add("--model", help="model directory (default: the packaged model)")
    add("--backend", help="backend of this checkout")
    add("--precision", help="precision of this checkout")
    add("--batch-size", type=int, default=16)
    add("--workers", type=int, default=2, help="processes that read images")
    add("--search", nargs="+", type=parse_setting, default=[], metavar="NAME=VALUE",
        help="settings of the search, such as width=3 rerank_weight=0")  # fmt: skip
    add("--against", metavar="CHECKOUT", help="another checkout of this project")
    add("--against-python", metavar="PYTHON", help="its Python interpreter")
    return parser


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    captioning = add_command(commands, caption, 200)
    captioning.add_argument("--stage-limit", type=int, default=128,
                            help="images for each stage alone (default: 128)")  # fmt: skip
    add_command(commands, encode, 128)
    add_command(commands, decode, 128)
    options = parser.parse_args()
    run = options.run
    del options.run
    with tempfile.TemporaryDirectory() as name:
        result = run(options, Path(name))
    print_report(result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
