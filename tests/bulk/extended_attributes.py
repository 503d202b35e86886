"""Extended attributes of files, for tests."""

import os

import pytest


def set_attribute(path, name, value):
    """Set an attribute; skip the test if the file system has none."""
    try:
        os.setxattr(path, name, value)
    except OSError:
        pytest.skip("the file system has no extended attributes")
