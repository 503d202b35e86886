"""The programs that the documentation calls, as far as they can run in a test."""

import argparse
import importlib
import json
import re
import runpy
import shlex
import subprocess
import sys
import threading
import tomllib
from contextlib import ExitStack, contextmanager

import pytest
import uvicorn
from caption_runs import run_command
from code_blocks import ROOT
from torch.distributed.run import get_args_parser

from captioning.cli.help_texts import config_type, parse_config
from captioning.cli.main import COMMANDS
from captioning.inference.captioner import Captioner
from captioning.web.api import create_app
from captioning.web.limits import ServerLimits
from captioning.web.server import open_address
from captioning.web.service import CaptionService

CLUSTER, NETWORK = "needs a Ray cluster; tests/cluster runs such commands", "needs a network"
CNN = "needs a large CNN; tests/training and tests/cli/test_train_command.py train a small one"
SERVER = "runs until it is stopped; tests/web runs it"
# What does not run, by its first words, and why. Commands of this package, of torchrun and of
# scripts/ are parsed all the same.
NOT_RUN = {
    "```{": "scripts/check builds the pages with Sphinx",
    "```python\nimport json\nimport sys\n": "tests/inference/test_model_export.py runs it",
    "```python\nimport ray\n": "tests/cluster/test_ray_runs.py runs it",
    "captioning caption s3://bucket/photos": NETWORK,
    "captioning caption s3://bucket/part-{0000..9999}.tar": CLUSTER,
    "captioning caption /shared/photos": "reads and writes outside the folder of the test",
    "captioning data download": NETWORK,
    "captioning export": "takes seconds; tests/inference/test_model_export.py runs it",
    "captioning evaluate runs/up-down": CNN,
    "captioning features --config up-down": CNN,
    "captioning serve": SERVER,
    "captioning train --config my.yaml": CNN,
    "captioning train --config up-down": CNN,
    "captioning train --config runs/first/settings.json --resume": "needs three epochs",
    "captioning train --data flickr8k:data/flickr8k --output runs/concepts": "needs more images",
    "captioning train --data flickr8k:data/flickr8k --output runs/online": CNN,
    "captioning web": SERVER,
    "docker": NETWORK,
    "pip install": NETWORK,
    "python scripts/": "takes minutes",
    "python -c import urllib": "needs a server on port 8080",
    "python3 -m venv": "only makes sense with pip install",
    "scripts/check": "runs all tests",
    "tensorboard": "runs until it is stopped",
    "torchrun": "starts several processes; tests/training does so",
    "useradd": "changes the system",
}
NAMES = (
    *("captioning", "curl", "docker", "pip", "python", "python3", "srun", "tensorboard"),
    *("torchrun", "useradd", "scripts/check"),
    *(".venv/bin/captioning", ".venv/bin/pip", ".venv-dev/bin/pip"),
)
# What a command of this package gets in addition, if it has a word.
ADDED = {
    "cuda": ("--device", "cpu"),
    "int8": ("--backend", "openvino"),
    "ray": ("--dry-run",),
}
# Programs that have no effect but their output.
FUNCTIONS = """
find() { printf 'photo.jpg\\0holiday/1.jpg\\0'; }
head() { read -r line; echo "$line"; }
scontrol() { echo node1; }
"""
TOKEN = "0123456789abcdef"
VARIABLES = {
    "CAPTIONING_TOKEN": TOKEN,
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_JOB_ID": "1",
    "SLURM_JOB_NODELIST": "node[1-2]",
}


def find_reason(text):
    """Return why a command or a block does not run; None if it does."""
    return next((reason for start, reason in NOT_RUN.items() if text.startswith(start)), None)


class Programs:
    """Runs commands in this process.

    Attributes:
        answers: The answers of the HTTP server.
    """

    def __init__(self, model):
        self.answers = []
        self._model = model
        self._servers = ExitStack()
        self._addresses = []

    def close(self):
        self._servers.close()

    def call(self, words, stdin, stdout):
        """Run a command, or parse it if it is in the list; return the exit code."""
        name = re.sub(r"^\.venv(-dev)?/bin/", "", words[0])
        command = shlex.join([name, *words[1:]]).replace("'", "")
        print(command, file=sys.stderr)
        if (run := RUN.get(name)) is not None:
            return run(self, words[1:], stdin, stdout) or 0
        assert find_reason(command), f"{command}: say in RUN or in NOT_RUN what it does"
        return 0

    def captioning(self, words, stdin, stdout):
        if find_reason(f"captioning {' '.join(words)}"):
            return parse_captioning(words)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", stdin)
            patch.setattr(sys, "stdout", stdout)
            extra = [word for mark, own in ADDED.items() if mark in words for word in own]
            return run_command(*words, *extra)

    def curl(self, words, stdin, stdout):
        """Send a request to a server of the tiny model, and check that it is answered."""
        for host, token in {} if self._addresses else {"localhost": "", "server": TOKEN}.items():
            port = self._servers.enter_context(serve(self._model, token))
            self._addresses += ["--connect-to", f"{host}:8080:127.0.0.1:{port}"]
        own = ["-q", "--noproxy", "*", "--no-progress-meter", "--fail-with-body"]
        command = ["curl", *own, *self._addresses, *words]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        self.answers.append(json.loads(ran.stdout))

    def pip(self, words, stdin, stdout):
        """Check that the extras exist."""
        known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for extras in re.findall(r"(?:\.|/src)\[(.*)\]", " ".join(words)):
            assert set(extras.split(",")) <= set(known["optional-dependencies"])

    def python(self, words, stdin, stdout):
        if words[0] == "-c":
            code = compile(words[1], "-c", "exec")
            if find_reason(f"python -c {words[1]}") is None:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr("datasets.config.HF_DATASETS_CACHE", "cache")
                    patch.setattr("datasets.config.HF_UPDATE_DOWNLOAD_COUNTS", False)
                    exec(code, {})
        else:
            parse_script(*words)

    def srun(self, words, stdin, stdout):
        return self.call(words, stdin, stdout)

    def torchrun(self, words, stdin, stdout):
        options = get_args_parser().parse_args(words)
        assert (options.module, options.training_script) == (True, "captioning")
        return parse_captioning(options.training_script_args)


RUN = {
    name: getattr(Programs, name)
    for name in ("captioning", "curl", "pip", "python", "srun", "torchrun")
}


def parse_captioning(words):
    """Parse a command of this package as it does itself."""
    name = max((name for name in COMMANDS if words[: name.count(" ") + 1] == name.split()), key=len)
    module = importlib.import_module(f"captioning.cli.{name.replace(' ', '_')}")
    rest = words[name.count(" ") + 1 :]
    if hasattr(module, "parse"):
        assert module.parse(rest)
    else:
        assert parse_config(name, config_type(module.run), rest, module.__doc__)
    return 0


def parse_script(name, *words):
    """Start a script, and stop it when it has parsed its words."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, *args):
        parse_args(parser, *args)
        raise InterruptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        patch.setattr(sys, "argv", [name, *words])
        patch.syspath_prepend(ROOT / "scripts")
        with pytest.raises(InterruptedError):
            runpy.run_path(str(ROOT / name), run_name="__main__")


@contextmanager
def serve(model, token):
    """Run an HTTP server in a thread, and yield its port."""
    service = CaptionService(
        Captioner.from_pretrained(model), ServerLimits(workers=0, max_seconds=600)
    )
    app = create_app(service, token=token, any_host=bool(token))
    address = open_address("localhost", 0, token)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, args=([address.socket],))
    thread.start()
    try:
        yield address.socket.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
