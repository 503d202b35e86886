"""Examples in docstrings and in ``--help``."""

import doctest
import importlib
import re
import shlex
import textwrap

import pytest
from code_blocks import ROOT
from programs import parse_captioning
from small_captioner import write_photos

import captioning
from captioning.cli.main import COMMANDS
from captioning.inference import captioner as captioner_module

SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(
        ".__init__"
    ): path.read_text()
    for path in ROOT.glob("captioning/**/*.py")
}


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_in_help_are_read(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("my.yaml", "run.yaml"):
        (tmp_path / name).write_text("data: [flickr8k:Flickr8k]")
    text = importlib.import_module(f"captioning.cli.{command.replace(' ', '_')}").__doc__
    lines = re.findall(r"^    captioning (.*)", text, re.MULTILINE)
    examples = [shlex.split(re.split(" > | && ", line)[0]) for line in lines]
    assert len(examples) >= 2
    for words in examples:
        if "--help" not in words:
            parse_captioning(words)


def test_sessions_in_docstrings_show_the_results():
    modules = [name for name, source in SOURCES.items() if ">>> " in source]
    results = [doctest.testmod(importlib.import_module(name)) for name in modules]
    assert sum(result.attempted for result in results) >= 1
    assert sum(result.failed for result in results) == 0


def test_examples_in_docstrings_run(tmp_path, model, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(captioner_module, "DEFAULT_MODEL", model)
    (path,) = write_photos(tmp_path, 1)
    path.rename("photo.jpg")
    sources = "\n".join(SOURCES.values())
    examples = re.findall(r"For example::\n\n((?: +.*\n)+)", sources)
    assert len(examples) >= 2
    for code in examples:
        exec(textwrap.dedent(code), {"captioning": captioning, "Captioner": captioning.Captioner})
    assert len(capsys.readouterr().out.splitlines()) == len(examples)
