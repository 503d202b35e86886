"""The lecture's notebook runs, and what it shows is what its text says."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "recurrent_networks.ipynb"


@pytest.fixture(scope="module")
def lecture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lecture")
    path = shutil.copy(NOTEBOOK, folder)
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    return notebook


def shown(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


def pictures(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def numbers(pattern, text):
    return [float(value) for value in re.search(pattern, text).groups()]


def test_all_figures_are_drawn(lecture):
    assert pictures(lecture) == pictures(nbformat.read(NOTEBOOK, as_version=4)) == 9


def test_what_is_computed_by_hand_is_what_the_package_computes(lecture):
    differences = re.findall(r"largest difference: (\S+)", shown(lecture))
    assert len(differences) == 2
    assert all(float(value) < 1e-12 for value in differences)


def test_gradients_vanish_below_one_and_explode_above(lecture):
    text = shown(lecture)
    ends = {
        factor: numbers(rf"{factor}: from (\S+) at the end to (\S+) at the start", text)
        for factor in ("0.7", "0.9", "1.15")
    }
    # Below one never more than the factor to the power of the 59 steps between.
    for factor in ("0.7", "0.9"):
        last, first = ends[factor]
        assert first <= 1.05 * last * float(factor) ** 59
    last, first = ends["1.15"]
    assert last < 100 < first <= 1.05 * last * 1.15**59


def test_gates_and_rectifiers_keep_the_gradient_alive(lecture):
    text = shown(lecture)
    kept = {
        label: numbers(rf"{label} +(\S+) of it reaches", text)[0]
        for label in (
            "tanh, singular values 0.9",
            "ReLU, identity",
            "forget bias 1",
            "forget bias 5",
        )
    }
    assert kept["tanh, singular values 0.9"] < 0.01 < 0.3 < kept["ReLU, identity"]
    assert kept["forget bias 1"] < 1e-6 < 0.3 < kept["forget bias 5"] <= 1.1


def test_clipping_saves_a_run_that_explodes(lecture):
    free, clipped = numbers(r"steps: (\S+) without, (\S+) with clipping", shown(lecture))
    assert clipped < 0.2 * free


def test_the_plain_net_fails_where_the_others_learn_to_add(lecture):
    found = dict(re.findall(r"(\w+) +error of the last 50 steps: (\S+)", shown(lecture)))
    assert float(found["rnn"]) > 0.14  # always saying 1 has an error of 1/6
    assert all(float(found[cell]) < 0.05 for cell in ("gru", "lstm"))


def test_the_photo_makes_its_caption_likelier(lecture):
    pairs = re.findall(r"(-\S+) with the photo, +(-\S+) without", shown(lecture))
    assert len(pairs) == 3
    assert all(float(seen) > float(blind) for seen, blind in pairs)
