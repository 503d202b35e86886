"""The child process of a benchmark: prepares a task, and runs it once for each line it reads.

    python -m benchmarks.worker TASK SETTINGS

``PYTHONPATH`` decides which checkout of the package it measures, so this module and
:mod:`benchmarks.tasks` use only what all of them have.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

# Standard output carries the replies; text that a library prints goes to standard error.
_replies = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)


@dataclass
class Prepared:
    """A task that is ready to run.

    Attributes:
        run: Processes all units once.
        units: Their number.
        stages: Seconds of the parts, which ``run`` adds up.
        facts: Other figures for the report.
    """

    run: Callable[[], object]
    units: int
    stages: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def timed(call: Callable[..., Any], stages: dict[str, float], name: str) -> Callable[..., Any]:
    """Return a function that adds its time to a stage."""
    stages.setdefault(name, 0.0)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            stages[name] += time.perf_counter() - start

    return wrapped


def main() -> None:
    name, settings = sys.argv[1], json.loads(sys.argv[2])
    import torch

    from benchmarks.tasks import TASKS

    if settings.get("threads"):
        torch.set_num_threads(settings["threads"])
    task = TASKS[name](settings)
    _replies.write("ready\n")
    for _ in sys.stdin:
        for stage in task.stages:
            task.stages[stage] = 0.0
        start = time.perf_counter()
        task.run()
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak_mb = peak / (1e6 if sys.platform == "darwin" else 1000)
        facts = {"peak_mb": round(peak_mb, 1), **task.facts}
        _replies.write(json.dumps({"seconds": seconds, "units": task.units,
                                   "stages": task.stages, "facts": facts}) + "\n")  # fmt: skip


if __name__ == "__main__":
    main()
