"""Errors on the page: no advice that needs a command line."""

import ast
import re
from pathlib import Path

import pytest

import captioning
from captioning.web.advice import advise_on_page

ROOT = Path(captioning.__file__).parent
WRITERS = ("failed_rows", "files", "original_files", "output_paths", "sidecars", "xmp")
REACHABLE = [
    *sorted((ROOT / "images").glob("*.py")),
    *(ROOT / "bulk" / f"{name}.py" for name in ("convert", "journal", "rows")),
    *(ROOT / "bulk" / "writers" / f"{name}.py" for name in WRITERS),
    ROOT / "sources" / "find.py",
]
"""Modules whose errors the page can show."""
UNREACHABLE = (
    "Use a folder with -o, and a --format other than embed.",  # for archives and URLs
    "Use --overwrite to replace it",  # the page has a button for this
    "standard output is closed",
    "another run is using",  # in the terminal, when the server starts
)
COMMAND = re.compile(r"(^|\s)--?[a-z]|captioning [a-z]|\bpip |\bgit |Run:|the (same )?command\b")


def read_messages(path):
    """Return the texts in a module that are not docstrings; an X stands for each value in them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    others = [id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            constants = [getattr(part, "value", None) for part in node.values]
            yield "".join(part if isinstance(part, str) else "X" for part in constants)
            others += map(id, node.values)
        elif isinstance(node, ast.Constant) and id(node) not in others:
            yield str(node.value)


@pytest.mark.parametrize("path", REACHABLE, ids=lambda path: path.stem)
def test_advice_of_no_module_needs_a_command_line(path):
    messages = [text for text in read_messages(path) if " " in text.strip()]
    messages = [text for text in messages if not any(part in text for part in UNREACHABLE)]
    found = [advise_on_page({"error": text})["error"] for text in messages]
    assert [text for text in found if COMMAND.search(text)] == []


def test_advice_is_replaced_in_errors_at_any_depth_only():
    text, advice = "it is full. Use another -o.", "Check the file and its folder"
    content = {"error": text, "rows": [{"error": text, "caption": text}, {"error": None}]}
    reply = advise_on_page(content)
    assert advice in reply["error"]
    assert advice in reply["rows"][0]["error"]
    assert reply["rows"][0]["caption"] == text
    assert reply["rows"][1] == {"error": None}
