"""Locks of the directories that several processes share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

_LOCK = ".lock"
_RETRY_SECONDS = 1


@dataclass(frozen=True)
class DirectoryLock:
    """Result of :func:`directory_lock`.

    Attributes:
        held: Whether the lock is held. False without locks, or without the right to write.
        waited: Whether another process held it before.
    """

    held: bool
    waited: bool


@contextmanager
def directory_lock(
    directory: Path, on_wait: Callable[[], None] = lambda: None
) -> Iterator[DirectoryLock]:
    """Hold the lock of a directory, which is created if it does not exist.

    Without file locks, as on some network disks, the caller continues without a lock.

    Args:
        directory: The directory.
        on_wait: Called every second while another process holds the lock.

    """
    lock, held, waited = FileLock(directory / _LOCK), True, False
    while True:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=_RETRY_SECONDS)
        except Timeout:
            waited = True
            on_wait()
            continue
        except (NotImplementedError, OSError):
            held = False  # the caller reports a directory that it cannot write
        break
    try:
        yield DirectoryLock(held, waited)
    finally:
        lock.release()
