"""Flags in messages: the command that prints a message has the flags that it recommends."""

import ast
import importlib
import re
from collections.abc import Collection, Iterator
from functools import cache

import pytest
from test_layers import MODULES, imported_names, module_name

from captioning.cli.help_texts import config_type, map_flags
from captioning.cli.main import COMMANDS

SOURCES = {module_name(path): path.read_text(encoding="utf-8") for path in MODULES}
# Modules that a command imports, but whose messages it does not print. The commands do.
PRINTED_BY = {
    "captioning.bulk.partition": {"caption"},
    "captioning.cli.caption_config": {"caption"},
    "captioning.cli.caption_report": {"caption"},
    "captioning.cli.consensus": {"caption", "evaluate"},
    "captioning.cli.output_config": {"caption", "convert"},
    "captioning.cli.search_flags": {"caption", "evaluate"},
    "captioning.images.worker_pool": {"caption", "evaluate", "train", "calibrate"},
    "captioning.reranking.consensus": {"caption", "evaluate"},
    "captioning.sources.find": {"caption"},
    "captioning.sources.http_files": {"caption", "evaluate", "train", "calibrate"},
    "captioning.sources.name_filter": {"caption"},
    "captioning.sources.skipped": {"caption"},
    "captioning.web.advice": (),  # replaces advice on flags
}
# Words for another command, which the message before them names.
FOR_OTHERS = {
    ("captioning.cli.data_download", "--data"),
    ("captioning.inference.explanation_page", "--own"),  # a CSS variable
}
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*+(?:\.[a-z-]++)*+(?!\.?{)")
NAMED = re.compile(rf"captioning ({'|'.join(sorted(COMMANDS, key=len, reverse=True))})\b")


def printed_by(module: str) -> Collection[str]:
    """Return the commands that print the messages of a module, as far as it is imported."""
    if module.startswith("captioning.bulk."):  # the web page writes files, but has no such flags
        return PRINTED_BY.get(module, set(COMMANDS) - {"web", "serve"})
    return PRINTED_BY.get(module, COMMANDS)


def command_module(command: str) -> str:
    return f"captioning.cli.{command.replace(' ', '_')}"


@cache
def command_flags(command: str) -> set[str]:
    module = importlib.import_module(command_module(command))
    return {*map_flags(config_type(module.run)).values(), "--help", "--version"}


@cache
def names_in(module: str) -> list[str]:
    return list(imported_names(SOURCES[module]))


def imported_modules(name: str) -> set[str]:
    """Return the modules of the package that a module imports, directly or through others."""
    found, left = set(), [name]
    while left:
        if (module := left.pop()) in SOURCES and module not in found:
            found.add(module)
            for imported in names_in(module):
                left += [imported, imported.rpartition(".")[0]]
    return found


@cache
def texts(module: str) -> list[str]:
    return list(read_texts(module))


def read_texts(module: str) -> Iterator[str]:
    """Yield the strings of a module without its docstrings; a value in an f-string is ``{}``."""
    for node in ast.walk(ast.parse(SOURCES[module])):
        if isinstance(node, ast.JoinedStr):
            parts = [part for part in node.values if isinstance(part, ast.Constant)]
            yield "".join(part.value if part in parts else "{}" for part in node.values)
            for part in parts:
                part.value = ""
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = ""  # a docstring, or the text of a field: --help has its own test
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def recommended(text: str) -> Iterator[tuple[str, str]]:
    """Yield each flag of a text with the command that the text names before it, or ``""``."""
    for flag in FLAG.finditer(text):
        before = text[: flag.start()]
        if "pip install" not in before:
            named = NAMED.findall(before)
            yield flag[0], named[-1] if named else ""


@pytest.mark.parametrize("command", COMMANDS)
def test_messages_recommend_flags_that_the_command_has(command):
    modules = [
        module
        for module in sorted(imported_modules(command_module(command)))
        if command in printed_by(module)
    ]
    assert command_module(command) in modules
    wrong = [
        f"{module}: {flag} of {named or command}: {text}"
        for module in modules
        for text in texts(module)
        for flag, named in recommended(text)
        if flag not in command_flags(named or command) and (module, flag) not in FOR_OTHERS
    ]
    assert not wrong


def test_flags_of_messages_are_found():
    text = "Use --width 5, captioning train --data X, or pip install --force-reinstall x."
    assert list(recommended(text)) == [("--width", ""), ("--data", "train")]
    assert any("--append" in text for text in texts("captioning.cli.output_config"))
