"""Lock of a folder that only one process may write."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from captioning.errors import CaptioningError, OutputError


@contextmanager
def lock_output(path: Path, in_use: CaptioningError | None = None) -> Iterator[None]:
    """Hold a lock file, so that no other process writes the same output.

    Without file locks, as on some network disks, there is no lock.

    Args:
        path: The lock file.
        in_use: Raised if another process holds the lock. None: an OutputError that says so.

    Raises:
        CaptioningError: Another process holds the lock.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise in_use or OutputError(
            f"another process is writing to '{path.parent}'. Wait until it has finished, or use "
            "another folder."
        ) from None
    except (NotImplementedError, OSError):
        pass  # a folder that cannot be written is reported by the first write
    try:
        yield
    finally:
        lock.release()
