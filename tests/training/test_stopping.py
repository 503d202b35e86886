"""Runs that are asked to stop: SIGTERM, and ``should_stop`` of a callback."""

import subprocess
import sys

import pytest
import torch
from small_run import TINY, config, load_weights, read_log

from captioning.errors import TrainingStoppedError
from captioning.training.callback import TrainingCallback
from captioning.training.run import train

pytestmark = pytest.mark.xdist_group("runs")  # one process trains the shared runs


def read_position(output):
    return torch.load(output / "state.pt", weights_only=True)["trainer"]["position"]


@pytest.mark.parametrize("moment", ["step", "validation"])
def test_stopped_run_resumes_to_the_same_weights(trained, tmp_path, moment):
    run, phases, steps = config(tmp_path / "run"), [], []

    def should_stop():
        if moment == "step":
            return len(steps) == 4
        return phases[-1:] == ["Captioning validation images"]

    callback = TrainingCallback(
        on_phase=phases.append, on_step=steps.append, should_stop=should_stop
    )
    with pytest.raises(TrainingStoppedError, match="Run the same command again to resume"):
        train(run, callback)
    assert read_position(run.output) == ([0, 5, 5] if moment == "step" else [0, 10, 10])
    result = train(run)
    expected, found = load_weights(trained), load_weights(result.model_dir)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert read_log(result.model_dir) == read_log(trained)


PROGRAM = """
import signal, sys
from captioning.cli.main import main
from captioning.training.log import TrainingLog

write = TrainingLog.write

def terminate(log, step, split, values):
    write(log, step, split, values)
    signal.raise_signal(signal.SIGTERM)

TrainingLog.write = terminate
before = signal.getsignal(signal.SIGTERM)
try:
    main(sys.argv[1:])
finally:
    assert signal.getsignal(signal.SIGTERM) == before
"""


def test_train_command_after_sigterm_exits_with_75(tmp_path):
    """In a process of its own, which the signal would end without a handler."""
    words = ["train", "--data", f"coco:{TINY}", "--output", str(tmp_path / "run")]
    words += ["--encoder.name", "timm:test_resnet", "--encoder.weights", "None", "--workers", "0"]
    words += ["--encoder.image-size", "64", "--device", "cpu", "--training.log-every", "2"]
    words += ["--training.batch-size", "16"]
    words += ["--decoder.hidden-size", "16", "--decoder.embedding-size", "16"]
    command = [sys.executable, "-c", PROGRAM, *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 75, ended.stderr
    assert "stopped after step 3 of" in ended.stderr
    assert read_position(tmp_path / "run") == [0, 3, 3]
