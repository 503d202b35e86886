"""Commands start without the packages that are slow to import and that they do not need."""

import subprocess
import sys

import pytest
from drawn_images import draw

from captioning.cli.main import COMMANDS

SLOW = {
    *("torch", "torchvision", "timm", "numpy", "pandas", "PIL", "jaxtyping", "rich", "pathspec"),
    *("huggingface_hub", "fsspec", "nltk", "pycocotools", "pyarrow", "openvino", "xml"),
    *("starlette", "uvicorn", "prometheus_client", "ray"),
}
RUN = """
import sys
from captioning.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
print(*sys.modules, sep="\\n", file=sys.stderr)
sys.exit(code)
"""


def run_command(*words: str) -> tuple[int, set[str]]:
    """Return the exit code of a command, and the modules that it imported."""
    command = [sys.executable, "-c", RUN, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    names = set(done.stderr.splitlines())
    return done.returncode, {name.partition(".")[0] for name in names} | names


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_command_imports_no_slow_package(command):
    code, imported = run_command(*command.split(), "--help")
    assert (code, imported & SLOW) == (0, set())


@pytest.mark.parametrize("words", [(), ("--help",), ("--version",), ("captoin",)])
def test_main_without_command_imports_no_slow_package(words):
    code, imported = run_command(*words)
    assert code == (0 if words and words[0] in ("--help", "--version") else 2)
    assert "captioning" in imported
    assert not imported & {*SLOW, "tyro"}


@pytest.mark.parametrize("words", [("caption", "--n", "two"), ("caption",), ("train",)])
def test_wrong_usage_imports_no_torch(words):
    code, imported = run_command(*words)
    assert code == 2
    assert not imported & {"torch", "pandas", "numpy"}


def test_caption_with_default_model_imports_no_compiler(tmp_path):
    draw(1).save(tmp_path / "image.png")
    code, imported = run_command("caption", str(tmp_path / "image.png"))
    assert code == 0
    assert "torch" in imported
    slow = {"timm", "torchvision", "torch._dynamo", "sympy", "pandas", "fsspec", "huggingface_hub"}
    assert not imported & slow
