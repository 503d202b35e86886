"""Build the notebooks from their sources, and run them.

    python scripts/build_notebooks.py             # all notebooks
    python scripts/build_notebooks.py evaluate    # notebooks/evaluate.py -> evaluate.ipynb

A source is a Python script in the percent format. ``# %%`` starts a code cell, ``# %% [markdown]``
starts a text cell whose lines are comments. Tags of a code cell: ``# %% tags=["parameters"]``.
The notebooks are run in a copy of the directories that they use, and saved with their outputs.
"""

import argparse
import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
_TIMEOUT = 1800  # seconds for a cell
_ATTEMPTS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="notebooks to build (default: all)")
    names = parser.parse_args().names or sorted(path.stem for path in NOTEBOOKS.glob("*.py"))
    for name in names:
        notebook = read_source(NOTEBOOKS / f"{name}.py")
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as directory:
            run(notebook, Path(directory))
        print(f"{name}: {len(notebook.cells)} cells, {time.monotonic() - start:.0f} s")
        nbformat.write(notebook, NOTEBOOKS / f"{name}.ipynb")


def read_source(path: Path) -> nbformat.NotebookNode:
    """Return the notebook of a source, without outputs."""
    notebook = new_notebook(metadata={"kernelspec": _KERNEL})
    notebook.cells = list(_read_cells(path.read_text(encoding="utf-8")))
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"  # the default is random, and would change in each build
    return notebook


def _read_cells(source: str) -> Iterator[nbformat.NotebookNode]:
    parts = re.split(r"^# %%(.*)\n", source, flags=re.MULTILINE)[1:]
    for header, text in zip(parts[::2], parts[1::2], strict=True):
        if "[markdown]" in header:
            yield new_markdown_cell(re.sub(r"^# ?", "", text, flags=re.MULTILINE).strip())
        else:
            tags = re.search(r"tags=(\[.*\])", header)
            metadata = {"tags": json.loads(tags[1])} if tags else {}
            yield new_code_cell(text.strip(), metadata=metadata)


def run(notebook: nbformat.NotebookNode, directory: Path) -> Path:
    """Run a notebook in a copy of the repository's layout, and return its working directory.

    On a busy machine the kernel once lost the printed text of a cell. The notebook is then run
    again.
    """
    shutil.copytree(ROOT / "data" / "tiny", directory / "data" / "tiny")
    working = directory / "notebooks"
    working.mkdir()
    client = NotebookClient(
        notebook,
        timeout=_TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(working)}},
    )
    for _ in range(_ATTEMPTS):
        client.execute()
        if not any(map(_lost_text, notebook.cells)):
            return working
    raise RuntimeError("cells that print have no text among their outputs")


def _lost_text(cell: nbformat.NotebookNode) -> bool:
    prints = cell.cell_type == "code" and re.search(r"^print\(", cell.source, re.MULTILINE)
    return bool(prints) and not any(each.output_type == "stream" for each in cell.outputs)


if __name__ == "__main__":
    main()
