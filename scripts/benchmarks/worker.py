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

TASKS = {
    **dict.fromkeys(("read", "encode", "decode", "products"), "captioning_tasks"),
    **dict.fromkeys(("train", "train_products"), "training_tasks"),
    **dict.fromkeys(("score", "reward", "pycocoevalcap"), "score_tasks"),
    **dict.fromkeys(("textbook", "vit_gpt2"), "peers"),
}
"""The module of each task."""


def main() -> None:
    # Standard output carries the replies; text that a library prints goes to standard error.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    name, settings = sys.argv[1], json.loads(sys.argv[2])
    import torch

    if settings.get("threads"):
        torch.set_num_threads(settings["threads"])
    task = getattr(importlib.import_module(f"benchmarks.{TASKS[name]}"), name)(settings)
    replies.write("ready\n")
    for _ in sys.stdin:
        for stage in task.stages:
            task.stages[stage] = 0.0
        task.before()
        start = time.perf_counter()
        task.run()
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak_mb = peak / (1e6 if sys.platform == "darwin" else 1000)
        reply = {
            "seconds": seconds,
            "units": task.units,
            "stages": task.stages,
            "facts": {"peak_mb": round(peak_mb, 1), **task.facts},
        }
        replies.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    main()
