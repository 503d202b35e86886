"""Code blocks of the documentation run, in a folder that has the files of a reader."""

import configparser
import inspect
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from code_blocks import PAGES, read_blocks
from programs import FUNCTIONS, NAMES, NOT_RUN, VARIABLES, Programs, find_reason
from reader_folder import fill_folder
from required_tools import require_tool
from shell import run_script

from captioning import score
from captioning.images.loader import ImageLoader
from captioning.inference import captioner as captioner_module
from captioning.inference.backend_config import BackendConfig
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.encoder_config import EncoderConfig
from captioning.training.config import RunConfig
from captioning.training.training_config import TrainingConfig

BLOCKS = {page: blocks for page in PAGES if (blocks := read_blocks(page))}
# Defaults with which a command takes less than a second.
SMALL = {
    EncoderConfig: {"name": "timm:test_resnet", "weights": None, "image_size": 32},
    DecoderConfig: {"embedding_size": 8, "hidden_size": 8, "attention_size": 8},
    TrainingConfig: {"max_steps": 1},
    RunConfig: {"search_images": 0},
    BackendConfig: {"backend": "torch"},
}
TOOLS = {"README.md": "exiftool", "docs/web.md": "curl"}  # that commands of these pages run


@pytest.fixture
def programs(tmp_path, model, monkeypatch):
    """The programs, in a folder with the files of a reader. Images are read in this process."""
    fill_folder(tmp_path, model)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(captioner_module, "DEFAULT_MODEL", model)
    monkeypatch.setattr(
        ImageLoader, "_read_in_workers", lambda self, images: map(self._read_here, images)
    )
    for config, values in SMALL.items():
        change_defaults(monkeypatch, config, values)
    opened = Programs(model)
    yield opened
    opened.close()


def change_defaults(monkeypatch, config, values):
    """Change the defaults of a config, for programs in Python and for the command line."""
    names = list(inspect.signature(config).parameters)[-len(config.__init__.__defaults__) :]
    defaults = dict(zip(names, config.__init__.__defaults__, strict=True)) | values
    monkeypatch.setattr(config.__init__, "__defaults__", tuple(defaults.values()))
    for name, value in values.items():
        monkeypatch.setattr(config.__dataclass_fields__[name], "default", value)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=require_tool(TOOLS[page], bool(shutil.which(TOOLS[page]))))
        if page in TOOLS
        else page
        for page in BLOCKS
    ],
)
def test_code_blocks_of_page_run(page, programs, tmp_path, model):
    blocks = BLOCKS[page]
    if not any("--output runs/first" in block.code for block in blocks):
        shutil.copytree(model, tmp_path / "runs" / "first" / "model")
    names = {"__name__": "__main__"}
    for block in blocks:
        if find_reason(f"```{block.language}\n{block.code}") is None:
            RUN[block.language](block, programs, names)


def test_reasons_not_to_run_each_concern_a_block():
    blocks = [block for page in BLOCKS.values() for block in page]
    texts = [f"```{block.language}\n{block.code}" for block in blocks]
    commands = re.sub(r"\\\n|['\"]", "", "".join(texts))
    unused = [
        start
        for start in NOT_RUN
        if not any(text.startswith(start) for text in texts)
        and start not in re.sub(" +", " ", commands)
    ]
    assert unused == []


# --- languages --------------------------------------------------------------------------------


def run_python(block, programs, names):
    exec(compile(block.code, block.place, "exec"), names)


def run_bash(block, programs, names):
    code = run_script(FUNCTIONS + block.code, NAMES, programs.call, VARIABLES)
    assert code == 0, f"{block.place}: exit code {code}"


def run_yaml(block, programs, names):
    manifest = yaml.safe_load(block.code)
    assert run_script(manifest["spec"]["entrypoint"], NAMES, programs.call) == 0


def run_dockerfile(block, programs, names):
    for line in block.code.splitlines():
        name, _, rest = line.removeprefix("HEALTHCHECK ").partition(" ")
        if name in ("CMD", "RUN"):
            command = shlex.join(json.loads(rest)) if rest.startswith("[") else rest
            assert run_script(command, NAMES, programs.call) == 0, line


def run_unit(block, programs, names):
    """Run the command of a systemd unit; systemd reads the rest, if it is installed."""
    unit = configparser.ConfigParser()
    unit.optionxform = str
    unit.read_string(block.code)
    path, *words = shlex.split(unit["Service"]["ExecStart"])
    assert programs.call([Path(path).name, *words], None, None) == 0
    if has_systemd():
        check_unit(block.code, path)


def has_systemd():
    """Return whether systemd can check a unit below another root: from version 250 on."""
    if not shutil.which("systemd-analyze"):
        return False
    version = subprocess.check_output(["systemd-analyze", "--version"], text=True)
    return int(re.match(r"systemd (\d+)", version)[1]) >= 250


def check_unit(code, program):
    """Let systemd check a unit; its program exists below the same root."""
    unit = "/etc/systemd/system/captioning.service"
    for name, text, mode in ((program, "#!", 0o755), (unit, code, 0o644)):
        file = Path(f"root{name}")
        file.parent.mkdir(parents=True)
        file.write_text(text)
        file.chmod(mode)
    command = ["systemd-analyze", "verify", "--root=root", "--recursive-errors=no", Path(unit).name]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert Path(unit).name not in ran.stderr


def compare_with_answers(block, programs, names):
    assert any(has_fields(answer, json.loads(block.code)) for answer in programs.answers)


def has_fields(found, shown):
    """Return whether a value from JSON has the fields that the documentation shows."""
    if isinstance(shown, dict):
        return all(
            name == "..." or (name in found and has_fields(found[name], value))
            for name, value in shown.items()
        )
    if isinstance(shown, list):
        return all(any(has_fields(each, value) for each in found) for value in shown)
    return type(found) is type(shown)


def compare_signature(block, programs, names):
    references = {number: ["A dog."] * 5 for number in range(1000)}
    assert block.code.strip() == score(dict.fromkeys(references, "a dog"), references).signature


RUN = {
    "python": run_python,
    "bash": run_bash,
    "yaml": run_yaml,
    "dockerfile": run_dockerfile,
    "ini": run_unit,
    "json": compare_with_answers,
    "text": compare_signature,
}
