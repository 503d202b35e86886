"""The rooms of the package import only from the rooms below them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "captioning"
ORDER = (
    "errors",
    "files",
    "metadata",
    "model_files",
    "weights_file",
    "data",
    "nn",
    "retrieval",
    "decoding",
    "metrics",
    "phrases",
    "stored_weights",
    "model_card",
    "checkpoint",
    "training",
    "consensus",
    "captioner",
    "evaluation",
    "commands",
    "cli",
    "__main__",
)
# Search knows no network, the network no search, and scores know neither.
STRANGERS = {"decoding": {"nn", "metrics"}, "metrics": {"nn", "decoding"}}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_rooms(source: str) -> set[str]:
    """Return the rooms that a module's text imports, wherever in it the import stands."""
    rooms = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            names = ["captioning.<relative>"]  # no module of ours is imported relatively
        elif isinstance(node, ast.ImportFrom) and node.module == "captioning":
            names = [f"captioning.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        parts = [name.split(".") for name in names]
        rooms |= {
            part[1] if len(part) > 1 else "<all>" for part in parts if part[0] == "captioning"
        }
    return rooms - {"__version__"}  # the one name that stands above all rooms


def allowed_rooms(room: str) -> set[str]:
    return set(ORDER[: ORDER.index(room) + 1]) - STRANGERS.get(room, set())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_its_own_room_and_those_below(path: Path) -> None:
    assert room_of(path) in ORDER, "a new room: give it a place in ORDER"
    imported = imported_rooms(path.read_text(encoding="utf-8"))
    assert imported <= allowed_rooms(room_of(path))


@pytest.mark.parametrize(
    ("source", "rooms"),
    [
        ("import captioning.nn.cells", {"nn"}),
        ("import captioning", {"<all>"}),
        ("from captioning import cli, __version__", {"cli"}),
        ("from captioning.data import Vocabulary", {"data"}),
        ("def f():\n    from captioning.metrics.bleu import bleu", {"metrics"}),
        ("from . import nn", {"<relative>"}),
        ("import torch, captioning_of_others", set()),
    ],
)
def test_imports_are_seen_in_every_form(source: str, rooms: set[str]) -> None:
    assert imported_rooms(source) == rooms


@pytest.mark.parametrize("module", ["captioning", "captioning.cli", "captioning.data.readers"])
def test_a_light_module_is_imported_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
