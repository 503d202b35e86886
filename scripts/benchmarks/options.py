"""The options of ``scripts/benchmark.py``, and what systems get of them."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.systems import Place

Options = argparse.Namespace

MACHINE_FLAGS = ("backend", "precision")
"""Flags of this checkout that another one may not have."""


def checkouts(options: Options) -> dict[str, Place]:
    """Return the places of the peers that are checkouts."""
    places = {}
    for name in options.against:
        if name in options.known_peers:
            continue
        path = Path(name).resolve()
        if not (path / "captioning").is_dir():
            known = "".join(f"{peer}, " for peer in options.known_peers)
            sys.exit(
                f"benchmark: --against {name} is not known. Use {known}or the path of a checkout "
                "of this project, which has a folder 'captioning'."
            )
        python = options.against_python or sys.executable
        places[path.name] = Place(path, python, options.threads)
    return places


def task_settings(
    options: Options, *, without: Sequence[str] = (), **others: Any
) -> dict[str, Any]:
    """Return the options, and other settings of a task, as JSON data."""
    left_out = {"known_peers", *without}
    values = {**vars(options), **others}
    return {name: to_json(value) for name, value in values.items() if name not in left_out}


def to_json(value: Any) -> Any:
    """Return paths as text, also in lists."""
    if isinstance(value, list):
        return [to_json(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def caption_flags(options: Options, *, without: Sequence[str] = ()) -> list[str]:
    """Return the flags of ``captioning caption``."""
    names = ("model", "batch_size", "workers", *MACHINE_FLAGS)
    values = {name: getattr(options, name) for name in names if name not in without}
    flags = []
    for name, value in {**values, **options.search}.items():
        if value is not None:
            flags += [f"--{name.replace('_', '-')}", str(value)]
    return flags


class SearchSettings(argparse.Action):
    """Reads ``width=3 rerank_weight=0`` into a dict."""

    def __call__(self, parser: Any, options: Options, values: Any, flag: str | None = None) -> None:
        """Store the settings."""
        search = {}
        for text in values:
            name, _, value = text.partition("=")
            try:
                search[name] = json.loads(value)
            except ValueError:
                parser.error(f"{text!r} is not a setting such as width=3 or n=1")
        setattr(options, self.dest, search)


def add_command(
    commands: Any, run: Callable[..., Any], peers: Sequence[str], limit: int, unit: str = "images"
) -> Callable[..., Any]:
    """Add a command with the options that all commands share; return how to add more."""
    text = (run.__doc__ or "").splitlines()[0]
    parser = commands.add_parser(run.__name__, help=text, description=text)
    parser.set_defaults(run=run, known_peers=tuple(peers))
    add = parser.add_argument
    add("--repeats", type=int, default=3, help="measured rounds (default: 3)")
    add("--warmups", type=int, default=1, help="rounds before them (default: 1)")
    add("--threads", type=int, help="processors to use (default: all)")
    add("--limit", type=int, default=limit, help=f"number of {unit} (default: {limit})")
    known = "".join(f"{peer}, " for peer in peers)
    add("--against", nargs="+", default=[], metavar="PEER",
        help=f"peers: {known}or the path of another checkout")  # fmt: skip
    add("--against-python", metavar="PYTHON", help="Python interpreter of the other checkouts")
    return add


def add_image_options(add: Callable[..., Any]) -> None:
    add("--images", type=Path, metavar="FOLDER",
        help="images, repeated if fewer than the limit (default: drawn ones)")  # fmt: skip
    add("--peer-limit", type=int, default=64,
        help="number of images for textbook and vit-gpt2 (default: 64)")  # fmt: skip
    add("--model", help="model directory (default: the packaged model)")
    add("--backend", help="backend of this checkout (default: that of the command)")
    add("--precision", help="precision of this checkout (default: that of the command)")
    add("--batch-size", type=int, help="images per batch (default: that of each checkout)")
    add("--workers", type=int, default=2, help="processes that read images (default: 2)")
    add("--search", nargs="+", action=SearchSettings, default={}, metavar="NAME=VALUE",
        help="settings of the search, such as width=3 rerank_weight=0")  # fmt: skip
