"""Commands in the documentation: the command line reads them as they are written."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from captioning.cli.help_texts import config_type, parse_config
from captioning.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
OWN_FILES = ("my.yaml", "runs/first/settings.json")  # that the reader has


def read_commands(page):
    """Return the commands of this package in the bash blocks of a page, as lists of words."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    words = [shlex.split(line.partition(" > ")[0], comments=True) for line in lines]
    return [each[1:] for each in words if each[:1] == ["captioning"]]


@pytest.mark.parametrize(
    "page",
    [
        *("docs/train-on-coco.md", "docs/training.md", "docs/evaluation.md", "docs/web.md"),
        *("docs/explain.md", "docs/export.md", "docs/caption-a-bucket.md"),
    ],
)
def test_documented_commands_are_read(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in OWN_FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("data: [flickr8k:data/flickr8k]")
    for words in read_commands(page):
        names = [name for name in COMMANDS if words[: name.count(" ") + 1] == name.split()]
        name = max(names, key=len)
        module = importlib.import_module(f"captioning.cli.{name.replace(' ', '_')}")
        rest = words[name.count(" ") + 1 :]
        if hasattr(module, "parse"):
            assert module.parse(rest)
        else:
            assert parse_config(name, config_type(module.run), rest, module.__doc__)


def test_documented_commands_are_found():
    commands = read_commands("docs/train-on-coco.md")
    assert ["data", "download", "coco", "-o", "data/coco"] in commands
    assert len(commands) >= 8
