"""Flags that the text of the documentation names: some command or script has each of them."""

import importlib
import re

from code_blocks import PAGES, ROOT
from markdown_it import MarkdownIt

from captioning.cli.help_texts import config_type, map_flags
from captioning.cli.main import COMMANDS

OTHERS = {"--help", "--version"}
OTHERS |= {"--rdzv-endpoint", "--num_processes", "--mixed_precision", "--cpu"}  # of launchers


def known_flags():
    modules = [importlib.import_module(f"captioning.cli.{n.replace(' ', '_')}") for n in COMMANDS]
    flags = {flag for m in modules for flag in map_flags(config_type(m.run)).values()}
    scripts = [path.read_text(encoding="utf-8") for path in ROOT.glob("scripts/**/*.py")]
    return flags | set(re.findall(r'"(--[a-z][\w-]*)"', "".join(scripts)))


def find_flags(page):
    """Return the flags in the inline code of a page, those in tables included."""
    tokens = MarkdownIt().enable("table").parse((ROOT / page).read_text(encoding="utf-8"))
    code = [c.content for t in tokens for c in t.children or () if c.type == "code_inline"]
    return set(re.findall(r"(?<![\w-])--[a-z][\w.-]*", " ".join(code)))


def test_flags_in_text_exist():
    named = {page: find_flags(page) for page in PAGES}
    assert len(set().union(*named.values())) > 100
    known = known_flags() | OTHERS
    assert {page: flags - known for page, flags in named.items() if flags - known} == {}
    assert set().union(*named.values()) >= OTHERS
