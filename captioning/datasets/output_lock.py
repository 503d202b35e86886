"""Lock of a folder that a command writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from captioning.errors import OutputError


@contextmanager
def lock_output(path: Path) -> Iterator[None]:
    """Hold a lock file, so that no other process writes the same output.

    Without file locks, as on some network disks, there is no lock.

    Raises:
        OutputError: Another process holds the lock.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise OutputError(
            f"another process is writing to '{path.parent}'. Wait until it has finished, or use "
            "another folder."
        ) from None
    except (NotImplementedError, OSError):
        pass  # a folder that cannot be written is reported by the first write
    try:
        yield
    finally:
        lock.release()
