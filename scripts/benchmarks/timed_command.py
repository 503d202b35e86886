"""``captioning`` with the time of journal and output printed to standard output, as JSON.

python -m benchmarks.timed_command caption FOLDER -o captions.jsonl
"""

import json
import sys

from benchmarks.prepared import time_attributes
from captioning.bulk.content import ImageContent
from captioning.bulk.journal import Journal
from captioning.bulk.writers.base import Writer
from captioning.bulk.writers.files import FileWriter
from captioning.cli.main import main

STAGES = {
    "journal": ((Journal, ("get", "put")), (ImageContent, ("__init__",))),
    "output": ((FileWriter, ("write", "flush")), (Writer, ("__exit__",))),
}


def run() -> None:
    times: dict[str, dict[str, float]] = {stage: {} for stage in STAGES}
    for stage, owners in STAGES.items():
        for owner, names in owners:
            time_attributes(owner, names, times[stage])
    try:
        main(sys.argv[1:])
    finally:
        print(json.dumps({stage: sum(own.values()) for stage, own in times.items()}))


if __name__ == "__main__":
    run()
