"""Notebooks: committed outputs come from one run, and the evaluation notebook runs."""

import re
from pathlib import Path

import nbformat
import pytest
from notebook_scripts import load_build_notebooks

from captioning.datasets import read_references, read_results
from captioning.metrics import score

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def count_figures(notebook):
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_outputs_come_from_one_complete_run(path):
    notebook = nbformat.read(path, as_version=4)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert not any(output.output_type == "error" for output in outputs(notebook))
    text = "".join(output.get("text", "") for output in outputs(notebook))
    assert not re.search(r"/(work|home|root|Users|tmp)/", text)  # no local paths


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_cells_equal_those_of_its_source(path):
    source = load_build_notebooks().read_source(path.with_suffix(".py"))
    committed, built = (
        [(cell.cell_type, cell.id, cell.metadata, cell.source) for cell in notebook.cells]
        for notebook in (nbformat.read(path, as_version=4), source)
    )
    assert committed == built


def test_notebook_source_is_split_into_cells(tmp_path):
    source = tmp_path / "source.py"
    source.write_text(
        '# %% [markdown]\n# # Title\n#\n# Text.\n\n# %% tags=["parameters"]\nX = 1  # %% no cell\n'
    )
    text, code = load_build_notebooks().read_source(source).cells
    assert (text.cell_type, text.source) == ("markdown", "# Title\n\nText.")
    assert (code.source, code.metadata["tags"]) == ("X = 1  # %% no cell", ["parameters"])


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """The evaluation notebook after a run in a copy of the repository layout."""
    folder = tmp_path_factory.mktemp("checkout")
    notebook = nbformat.read(ROOT / "notebooks" / "evaluate.ipynb", as_version=4)
    load_build_notebooks().run(notebook, folder)
    return folder, notebook


def test_evaluation_notebook_shows_the_scores_of_its_captions(evaluated):
    folder, notebook = evaluated
    captions = read_results(folder / "notebooks" / "runs" / "attention.json")
    references = read_references(folder / "data" / "tiny" / "annotations" / "captions_val.json")
    scores = score(captions, references)
    shown = "".join(output.get("text", "") for output in outputs(notebook))
    assert f"BLEU-4   {100 * scores.bleu_4:6.2f}   [" in shown
    assert f"CIDEr    {100 * scores.cider:6.2f}   [" in shown
    assert "A = attention, B = one vector" in shown


def test_evaluation_notebook_draws_all_figures(evaluated):
    committed = nbformat.read(ROOT / "notebooks" / "evaluate.ipynb", as_version=4)
    assert count_figures(evaluated[1]) == count_figures(committed) == 5
