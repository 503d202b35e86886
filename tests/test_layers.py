"""The rooms of the package import only from the rooms below them, and no modules form a cycle."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "captioning"
# From the bottom to the top; docs/architecture.md has a line for each.
ROOMS = (
    "errors",
    "track",
    "messages",
    "field_texts",
    "short_repr",
    "file_lock",
    "files",
    "file_patterns",
    "json_data",
    "processes",
    "text",
    "images",
    "decoding",
    "nn",
    "datasets",
    "metrics",
    "graphs",
    "features",
    "reranking",
    "checkpoint",
    "sources",
    "inference",
    "evaluation",
    "training",
    "bulk",
    "web",
    "cli",
    "__main__",
)
# Rooms that must not know each other although the order would allow it.
FORBIDDEN = {
    "nn": {"decoding"},
    "metrics": {"decoding", "nn"},
    "bulk": {"training", "evaluation"},
    "web": {"training", "evaluation"},
    "sources": {"checkpoint", "reranking", "features", "metrics", "nn", "decoding", "datasets"},
}
# The lecture's modules stand at the side: they may import every room, and no room imports them.
LECTURE = "lecture"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(source: str) -> Iterator[str]:
    """Yield the dotted names that a module imports, function-local imports included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield "captioning.<relative>"
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_rooms(source: str) -> set[str]:
    parts = [name.split(".") for name in imported_names(source)]
    rooms = {part[1] if len(part) > 1 else "<all>" for part in parts if part[0] == "captioning"}
    return rooms - {"__version__"}  # the only name of captioning/__init__.py that rooms may use


def allowed_rooms(room: str) -> set[str]:
    if room == LECTURE:
        return {LECTURE, *ROOMS}
    return set(ROOMS[: ROOMS.index(room) + 1]) - FORBIDDEN.get(room, set())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_only_lower_rooms(path: Path) -> None:
    assert room_of(path) in {LECTURE, *ROOMS}, "a new room: give it a place in ROOMS"
    imported = imported_rooms(path.read_text(encoding="utf-8"))
    assert imported <= allowed_rooms(room_of(path))


def test_modules_import_each_other_without_cycles() -> None:
    modules = {module_name(path): path for path in MODULES}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        imported = set(imported_names(path.read_text(encoding="utf-8")))
        parents = {each.rpartition(".")[0] for each in imported}
        graph[name] = ((imported | parents) & set(modules)) - {name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize(
    ("source", "rooms"),
    [
        ("import captioning.nn.cells", {"nn"}),
        ("import captioning", {"<all>"}),
        ("from captioning import cli, __version__", {"cli"}),
        ("from captioning.text import Vocabulary", {"text"}),
        ("def f():\n    from captioning.metrics.bleu import bleu", {"metrics"}),
        ("from . import nn", {"<relative>"}),
        ("import torch, captioning_of_others", set()),
    ],
)
def test_imported_rooms_sees_every_form_of_import(source: str, rooms: set[str]) -> None:
    assert imported_rooms(source) == rooms


@pytest.mark.parametrize(
    "module",
    ["captioning", "captioning.cli.main", "captioning.cli.evaluate", "captioning.datasets"],
)
def test_light_module_imports_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
