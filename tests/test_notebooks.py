"""Notebooks: committed outputs come from one run, and the short notebooks run."""

import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from notebook_scripts import load_build_notebooks

from captioning.cli.samples import SAMPLES
from captioning.datasets import read_references, read_results
from captioning.metrics import score

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def count_figures(notebook):
    kinds = {"image/png", "image/jpeg"}
    return sum(not kinds.isdisjoint(output.get("data", {})) for output in outputs(notebook))


def shown_text(notebook):
    """Return what the notebook prints, and its tables as text."""
    texts = (o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs(notebook))
    return "\n".join(texts)


def read_committed(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def run(name, folder, short=()):
    """Return a notebook after a run in a copy of the repository layout.

    Args:
        name: Name of the notebook.
        folder: Where the copy is made.
        short: Text of its code, and what replaces it for a shorter run.
    """
    notebook = read_committed(name)
    if short:
        (cell,) = [cell for cell in notebook.cells if short[0] in cell.source]
        cell.source = cell.source.replace(*short)
    load_build_notebooks().run(notebook, folder)
    assert count_figures(notebook) == count_figures(read_committed(name)) > 0
    return notebook


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


def test_evaluation_notebook_shows_the_scores_of_its_captions(tmp_path):
    shown = shown_text(run("evaluate", tmp_path, ("epochs=50", "epochs=6")))
    captions = read_results(tmp_path / "notebooks" / "runs" / "attention.json")
    references = read_references(tmp_path / "data" / "tiny" / "annotations" / "captions_val.json")
    scores = score(captions, references)
    assert f"BLEU-4   {100 * scores.bleu_4:6.2f}   [" in shown
    assert f"CIDEr    {100 * scores.cider:6.2f}   [" in shown
    assert "A = attention, B = one vector" in shown


def test_folder_notebook_shows_the_captions_of_its_photos(tmp_path):
    shown = shown_text(run("caption_a_folder", tmp_path))
    captions = pd.read_csv(tmp_path / "notebooks" / "captions.csv")
    names = {f"photos/{sample.name}" for sample in SAMPLES}
    assert set(captions.file_name) == names
    assert all(name in shown and text in shown for name, text, _ in captions.values)
    assert "exit code 1" in shown
    assert "cannot read 'photos/cut.jpg': it is incomplete or damaged" in shown


def test_training_notebook_learns_to_caption_its_images(tmp_path):
    shown = shown_text(run("train_on_your_captions", tmp_path))
    assert "96 captions of 48 images" in shown
    assert float(re.search(r"^CIDEr +(\S+)", shown, re.MULTILINE)[1]) > 100  # untrained: below 20
