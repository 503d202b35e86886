"""Extended attributes of files, for tests."""

import os
import struct

import pytest

# Version 2: user rw, user 1234 r, group r, mask r, others none (acl(5), in the kernel's form).
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, rights, owner)
    for tag, rights, owner in [
        *[(1, 6, 0xFFFFFFFF), (2, 4, 1234), (4, 4, 0xFFFFFFFF)],
        *[(16, 4, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)],
    ]
)


def set_attribute(path, name, value):
    """Set an attribute; skip the test if the file system has none."""
    try:
        os.setxattr(path, name, value)
    except OSError:
        pytest.skip("the file system has no extended attributes")
