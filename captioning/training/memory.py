"""Allocator settings of the process."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # malloc.h
_LIMIT = 2**31 - 1  # mallopt takes a C int


def disable_malloc_trim() -> bool:
    """Make the GNU C library keep freed memory instead of returning it to the system.

    Each training step frees and allocates hundreds of tensors of many megabytes. By default glibc
    returns each to the system, which later zeroes the pages again: a tenth to a quarter of a step
    on a CPU. With this setting the memory of the process stays at its peak.

    Returns:
        Whether the setting took effect. False on other systems and C libraries.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _LIMIT))
    return [mallopt(name, value) for name, value in settings] == [1, 1]
