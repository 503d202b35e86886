"""Keep what the allocator frees, so that the next batch need not ask the system for it again."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # malloc.h
_LIMIT = 2**31 - 1  # mallopt takes a C int


def disable_malloc_trim() -> bool:
    """Tell the GNU C library to keep large blocks that are freed; return whether it listened.

    A batch frees and takes hundreds of tensors of many megabytes. By default each of them goes
    back to the system at once and comes again page by page, all zeroed: on a CPU a tenth to a
    quarter of a training step. The process's memory stays at its highest.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False  # another C library
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _LIMIT))
    return [mallopt(name, value) for name, value in settings] == [1, 1]
