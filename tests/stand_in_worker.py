"""Worker processes that run injected code for one image."""

import os  # noqa: F401  (injected code may need it)
import time  # noqa: F401

from captioning.images.decode import read_image


def stand_in(name, act):
    """Return a ``read_image`` that runs the Python code ``act`` before it reads ``name``."""

    def read(source, **options):
        if str(source).endswith(name):
            exec(act)
        return read_image(source, **options)

    return read


def worker_where(name, act):
    """Return a ``WORKER_CODE`` that runs the Python code ``act`` before it reads ``name``."""
    return (
        "from captioning.images import worker\n"
        "from stand_in_worker import stand_in\n"
        f"worker.read_image = stand_in({name!r}, {act!r})\n"
        "worker.main(sys.argv[2])"
    )
