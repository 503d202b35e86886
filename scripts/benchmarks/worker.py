"""The child process of a benchmark: prepares a task, and runs it once for each line it reads.

    python -m benchmarks.worker TASK SETTINGS

``PYTHONPATH`` decides which checkout of the package it measures. The tasks therefore use only what
all checkouts have.
"""

import importlib
import json
import os
import resource
import sys
import time
from dataclasses import asdict
from typing import Any

from benchmarks.measure import Run
from benchmarks.prepared import Prepared

TASKS = {
    **dict.fromkeys(("read", "encode", "decode", "generate", "products"), "captioning_tasks"),
    **dict.fromkeys(("train", "train_products"), "training_tasks"),
    **dict.fromkeys(("score", "reward", "pycocoevalcap"), "score_tasks"),
    **dict.fromkeys(("textbook", "vit_gpt2"), "peers"),
}
"""The module of each task."""


def prepare(name: str, settings: dict[str, Any]) -> Prepared:
    """Return a task, ready to run."""
    import torch

    if settings.get("threads"):
        torch.set_num_threads(settings["threads"])
    module = importlib.import_module(f"benchmarks.{TASKS[name]}")
    return getattr(module, name)(settings)


def run_once(task: Prepared) -> Run:
    """Run a task and measure it."""
    for stage in task.stages:
        task.stages[stage] = 0.0
    task.before()
    start = time.perf_counter()
    task.run()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak_mb = peak / (1e6 if sys.platform == "darwin" else 1000)
    facts = {"peak_mb": round(peak_mb, 1), **task.facts}
    return Run(seconds, task.units, dict(task.stages), facts)


def main() -> None:
    # Standard output carries the replies; text that a library prints goes to standard error.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    task = prepare(sys.argv[1], json.loads(sys.argv[2]))
    replies.write("ready\n")
    for _ in sys.stdin:
        replies.write(json.dumps(asdict(run_once(task))) + "\n")


if __name__ == "__main__":
    main()
