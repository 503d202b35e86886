"""Compare training and evaluation in several processes with one process.

    python scripts/process_parity.py
    python scripts/process_parity.py --runs teacher self-critical --processes 2 --steps 100
    python scripts/process_parity.py --float64

The data are data/tiny; CNN and decoder are small. For each run, the loss at every step and the
final weights are compared with those of one process. Then runs are stopped by SIGTERM in the middle
of an epoch, and resumed by another number of processes. Last, the packaged model captions the
validation images.

Each line of the output has the largest differences of losses and of weights, and the norm of the
difference of all weights relative to that of the weights. In float32, Adam enlarges the rounding of
gradients that are close to 0. In float64, a difference in weights of more than 1e-9 is an error.

The exit code is 1 if a loss differs by more than 1e-4, an evaluation differs at all, or weights in
float64 differ by more than 1e-9.
"""

import argparse
import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captioning.cli.main import main as captioning

ROOT = Path(__file__).parents[1]
DATA = ("--data", f"coco:{ROOT / 'data' / 'tiny'}")
LIMIT = 1e-4  # of the difference of two losses
WEIGHT_LIMIT = 1e-9  # of the difference of two weights in float64
FLOAT64 = "captioning-in-float64"
STOP_AFTER = 0.5  # share of the steps
SMALL = (
    *("--encoder.name", "timm:test_resnet", "--encoder.weights", "None"),
    *("--encoder.image-size", "64", "--decoder.attention-size", "16"),
    *("--decoder.embedding-size", "16", "--decoder.hidden-size", "16"),
)
COMMON = (
    *("--device", "cpu", "--workers", "0", "--search-images", "0", "--training.log-every", "1"),
    *("--training.batch-size", "16", "--training.epochs", "1000", "--training.patience", "0"),
)
ATTENTION = ("--decoder.core", "attention")
NOISE = (
    *(*ATTENTION, "--decoder.dropout", "0.3", "--decoder.recurrent-dropout", "0.2"),
    *("--training.word-dropout", "0.1", "--training.captions-per-image", "2"),
)
TRAINED = ("--init-from", "teacher/model")
RUNS: dict[str, tuple[str, ...]] = {
    "teacher": (*SMALL, *ATTENTION, "--decoder.dropout", "0"),
    "dropout": (*SMALL, *NOISE),
    "accumulation": (*SMALL, *NOISE, "--training.accumulation-steps", "3"),
    "fine-tuning": (*TRAINED, "--training.fine-tune-stages", "2"),
    "self-critical": (*TRAINED, "--training.objective", "self_critical"),
}
"""Options of each run. The runs that start from a trained model have the dropout of its decoder."""
RESUMED = ((1, 2), (3, 2), (2, 1))
"""Numbers of processes before and after an interruption."""


class Commands:
    """Runs ``captioning`` in a folder, in one process or in a job of several.

    Args:
        folder: Working directory of all commands.
        steps: Steps of each training run.
        float64: Compute in float64.
    """

    def __init__(self, folder: Path, steps: int, *, float64: bool = False) -> None:
        self.folder = folder
        self.steps = steps
        self.float64 = float64

    def start(self, processes: int, *words: str) -> "subprocess.Popen[str]":
        """Start a command; its messages go into a file."""
        job = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        program = [__file__, FLOAT64] if self.float64 else ["-m", "captioning"]
        command = [sys.executable, *(job if processes > 1 else ()), *program, *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with (self.folder / "messages.txt").open("a") as messages:
            return subprocess.Popen(
                command, cwd=self.folder, env=environment, text=True, stderr=messages,
                stdout=subprocess.PIPE,
            )  # fmt: skip

    def finish(self, process: "subprocess.Popen[str]") -> str:
        """Wait for the end of a command, and return what it printed."""
        printed = process.communicate()[0]
        if process.returncode:
            raise SystemExit((self.folder / "messages.txt").read_text()[-3000:])
        return printed

    def train(self, processes: int, options: Sequence[str], output: str) -> None:
        """Train until the last step, or resume a stopped run."""
        self.finish(self.start(processes, *self._training(options, output)))

    def stop(self, processes: int, options: Sequence[str], output: str) -> list[int]:
        """Start a run, stop it with SIGTERM, and return its epochs, batches and steps."""
        process = self.start(processes, *self._training(options, output))
        while process.poll() is None and len(self.read_log(output)) < STOP_AFTER * self.steps:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        process.communicate()
        position: list[int] = self.read_state(output)["position"]
        return position

    def _training(self, options: Sequence[str], output: str) -> list[str]:
        limit = ("--training.max-steps", str(self.steps), "--output", output, "--cache", "features")
        return ["train", *DATA, *COMMON, *options, *limit]

    def read_log(self, output: str) -> list[float]:
        """Return the loss at each step."""
        path = self.folder / output / "log.csv"
        if not path.is_file():
            return []
        with path.open(newline="") as file:
            return [float(row["loss"]) for row in csv.DictReader(file) if row["split"] == "step"]

    def read_state(self, output: str) -> dict[str, Any]:
        """Return the saved state of the training loop."""
        path = self.folder / output / "state.pt"
        state: dict[str, Any] = torch.load(path, weights_only=True)["trainer"]
        return state

    def read_weights(self, output: str) -> Tensor:
        """Return all weights of a run as one vector."""
        weights = self.read_state(output)["cached_model"].values()
        return torch.cat([weight.flatten() for weight in weights if weight.is_floating_point()])

    def compare(self, name: str, found: str, expected: str) -> bool:
        """Print the largest differences of two runs, and return whether they agree."""
        losses = zip(self.read_log(found), self.read_log(expected), strict=True)
        loss = max(abs(a - b) for a, b in losses)
        own, whole = (self.read_weights(run) for run in (found, expected))
        largest, relative = (own - whole).abs().max(), (own - whole).norm() / whole.norm()
        print(f"{name:<36}{loss:>10.1e}{largest:>12.1e}{relative:>12.1e}", flush=True)
        return loss <= LIMIT and (not self.float64 or float(largest) <= WEIGHT_LIMIT)


def compare_training(commands: Commands, runs: Sequence[str], counts: Sequence[int]) -> bool:
    """Train in one process and in several, and return whether all runs agree."""
    agree = True
    for name in dict.fromkeys(["teacher", *runs]):  # the other runs start from its model
        commands.train(1, RUNS[name], name)
        for count in counts:
            commands.train(count, RUNS[name], f"{name}-{count}")
            title = f"{name}, {count} processes"
            agree &= commands.compare(title, f"{name}-{count}", name)
    return agree


def compare_resumed(commands: Commands, name: str) -> bool:
    """Stop and resume a run, and return whether the results are those of the whole run."""
    agree = True
    for before, after in RESUMED:
        output = f"{name}-{before}-{after}"
        epochs, batches, _ = commands.stop(before, RUNS[name], output)
        commands.train(after, RUNS[name], output)
        title = f"{name}, {before} -> {after} in epoch {epochs + 1}, batch {batches}"
        agree &= commands.compare(title, output, name)
    return agree


def compare_evaluation(commands: Commands, counts: Sequence[int]) -> bool:
    """Evaluate the packaged model, and return whether captions and scores are identical."""
    found = {}
    for count in (1, *counts):
        words = ("evaluate", *DATA, "--split", "val", "--device", "cpu", "--batch-size", "5")
        printed = commands.finish(commands.start(count, *words, "--json", "-o", f"{count}.json"))
        found[count] = (printed, (commands.folder / f"{count}.json").read_bytes())
    for count in counts:
        text = "identical" if found[count] == found[1] else "DIFFERENT"
        print(f"captions and scores, {count} processes: {text}")
    return all(found[count] == found[1] for count in counts)


def run_in_float64(words: list[str]) -> None:
    """Run ``captioning`` with weights and features in float64."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    captioning(words)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--runs", nargs="+", choices=RUNS, default=list(RUNS), help="runs (default: all)")
    add(
        "--processes",
        nargs="+",
        type=int,
        default=[2, 3],
        help="default: 2 3",
    )
    add("--steps", type=int, default=50, help="steps of each run (default: 50)")
    add("--float64", action="store_true", help="compute in float64, without the evaluation")
    options = parser.parse_args()
    print(f"{'':<36}{'loss':>10}{'weight':>12}{'all weights':>12}")
    with tempfile.TemporaryDirectory() as folder:
        commands = Commands(Path(folder), options.steps, float64=options.float64)
        results = [
            compare_training(commands, options.runs, options.processes),
            *(compare_resumed(commands, name) for name in options.runs if name == "dropout"),
            options.float64 or compare_evaluation(commands, options.processes),
        ]
    return 0 if all(results) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == [FLOAT64]:  # a command of this script
        run_in_float64(sys.argv[2:])
    raise SystemExit(main())
