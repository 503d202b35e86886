"""Functions and modules of the package stay small, and functions take few parameters."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "captioning"
MODULES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULE_LINES, FUNCTION_LINES, PARAMETERS = 320, 45, 7


def find_functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield every function with its qualified name."""
    for node in ast.iter_child_nodes(tree):
        name = f"{prefix}{node.name}." if hasattr(node, "name") else prefix
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield name[:-1], node
        yield from find_functions(node, name)


def count_lines(function: ast.FunctionDef) -> int:
    """Return the lines of a function, its docstring left out."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        lines -= function.body[0].end_lineno - function.body[0].lineno + 1
    return lines


def count_parameters(function: ast.FunctionDef) -> int:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return sum(argument.arg not in ("self", "cls") for argument in named)


def find_violations(source: str) -> Iterator[str]:
    """Yield the name of each function that breaks a limit, and the empty name for the module."""
    if len(source.splitlines()) > MODULE_LINES:
        yield ""
    for name, function in find_functions(ast.parse(source)):
        if count_lines(function) > FUNCTION_LINES or count_parameters(function) > PARAMETERS:
            yield name


@pytest.mark.parametrize("module", MODULES)
def test_module_keeps_the_size_limits(module):
    assert list(find_violations(MODULES[module].read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("x = 1\n" * 320, []),
        ("x = 1\n" * 321, [""]),
        ("def f():\n" + "    x = 1\n" * 44, []),
        ("def f():\n" + "    x = 1\n" * 45, ["f"]),
        ('def f():\n    """A.\n\n    B.\n    """\n' + "    x = 1\n" * 44, []),
        ("class A:\n    def f(self, a, b, c, d, *, e, f, g): ...", []),
        ("class A:\n    def f(self, a, b, c, d, *, e, f, g, h): ...", ["A.f"]),
    ],
)
def test_find_violations_names_broken_limits(source, found):
    assert list(find_violations(source)) == found
