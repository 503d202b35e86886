"""Access to scripts/build_notebooks.py, which is not part of the package."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "build_notebooks.py"


def load_build_notebooks():
    """Return the module of the script."""
    spec = importlib.util.spec_from_file_location("build_notebooks", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
