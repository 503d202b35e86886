"""A job in which single processes have errors; each process prints what it sees as JSON.

The tests start this file in several processes.
"""

import json
import os
import signal

import torch

from captioning import processes
from captioning.errors import CaptioningError, DataError, TrainingError, TrainingStoppedError


def describe(action, *arguments):
    """Return how an action ends."""
    try:
        action(*arguments)
    except CaptioningError as error:
        return f"{type(error).__name__}: {error}"
    except SystemExit as end:
        return f"exit {end.code}"
    return "done"


def fail(index, error):
    with processes.fail_together():
        if processes.process_index() == index:
            raise error


if __name__ == "__main__":
    processes.SECONDS_FOR_MESSAGE = 0
    processes.connect_processes("cpu")
    ends = [
        describe(fail, 0, DataError("no captions")),
        describe(fail, 1, DataError("no images")),
        describe(fail, 1, TrainingStoppedError("stopped")),
        describe(processes.raise_together, TrainingError("diverged")),
        describe(fail, None, None),
    ]
    if processes.process_index() == processes.process_count() - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    ends.append(describe(processes.add_over_processes, torch.ones(1)))
    print(json.dumps(ends), flush=True)
    os._exit(0)
