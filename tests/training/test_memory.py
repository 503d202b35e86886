"""The allocator setting that keeps freed memory."""

import platform
import subprocess
import sys

import pytest

from captioning.training import memory

GLIBC = platform.libc_ver()[0] == "glibc"
COUNT = f"""
import resource, runpy

def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        bytearray(48_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults(5)
assert runpy.run_path({memory.__file__!r})["disable_malloc_trim"]()  # importing takes seconds
faults(3)
print(before, faults(5))
"""


@pytest.mark.skipif(not GLIBC, reason="only the GNU C library has this setting")
def test_disable_malloc_trim_avoids_page_faults():
    """In a process of its own, because the setting cannot be undone."""
    found = subprocess.run(
        [sys.executable, "-c", COUNT], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    before, after = map(int, found.stdout.split())
    assert after < before / 20
