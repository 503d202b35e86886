"""Tests that need a program which Python packages do not install."""

import os

import pytest


def require_tool(name: str, available: bool) -> pytest.MarkDecorator:
    """Skip tests if a tool is missing. In CI they run, and fail without the tool."""
    return pytest.mark.skipif(
        not available and os.environ.get("CI") != "true", reason=f"needs {name}"
    )
