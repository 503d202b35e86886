"""The lecture runs from top to bottom, and what its text claims is what it shows."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from torch.nn.utils.rnn import pack_sequence

from captioning import BeamSearch, Captioner, tokenize
from captioning.nn import Features

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "recurrent_networks.ipynb"
NUMBER = r"(-?[\d.]+(?:e[+-]\d+)?)"


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def images(notebook):
    kinds = {"image/png", "image/jpeg"}
    return sum(bool(kinds & set(output.get("data", {}))) for output in outputs(notebook))


@pytest.fixture(scope="module")
def lecture(tmp_path_factory):
    """The notebook, run in a copy of the checkout's layout, and its folder."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "data" / "tiny", folder / "data" / "tiny")
    (folder / "notebooks").mkdir()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    where = {"metadata": {"path": str(folder / "notebooks")}}
    NotebookClient(notebook, timeout=1800, kernel_name="python3", resources=where).execute()
    return folder / "notebooks", notebook


@pytest.fixture(scope="module")
def shown(lecture):
    """All that the notebook prints, tables included."""
    found = outputs(lecture[1])
    return "\n".join(o.get("text", o.get("data", {}).get("text/plain", "")) for o in found)


@pytest.fixture(scope="module")
def captioner():
    return Captioner.from_pretrained()


def number(pattern, shown):
    return float(re.search(pattern + r"\s*" + NUMBER, shown)[1])


def numbers(pattern, shown):
    line = re.search(rf"{pattern}(.*)", shown)[1]
    return [float(found) for found in re.findall(NUMBER, line)]


def test_all_figures_are_drawn(lecture):
    assert images(lecture[1]) == images(nbformat.read(NOTEBOOK, as_version=4)) == 18


def test_a_bag_cannot_tell_what_the_recurrence_can(shown):
    assert "the same bag: True" in shown
    nearest, *further = numbers("right after 0, 1, ... 5 phrases: ", shown)
    assert nearest > 99
    assert all(50 < right < 90 for right in further)
    assert number("wrong at most:", shown) < 5
    assert number("distance of the two bags:", shown) < 1e-5
    assert number("distance of the two last states:", shown) > 0.1


def test_what_is_written_out_by_hand_is_what_the_package_computes(shown):
    assert number("largest difference from captioning.nn.RNNCell:", shown) < 1e-5
    assert max(numbers("largest difference from autograd", shown)) < 1e-12
    assert max(numbers("largest difference from finite differences", shown)) < 1e-7
    assert "their sum is the gradient above: True" in shown
    assert number("largest difference from the decoder's own memory:", shown) < 1e-5


def test_gradients_keep_to_the_bound(shown):
    rows = {
        (float(value), loudness): tuple(map(float, rest))
        for value, _, loudness, *rest in re.findall(
            rf"singular value {NUMBER}, radius {NUMBER}, (\w+) inputs\s+{NUMBER}\s+{NUMBER}", shown
        )
    }
    assert len(rows) == 5
    steps = 59
    for (value, _), (found, bound) in rows.items():
        assert found <= bound * 1.1  # two digits are shown
        if value in (0.8, 1.0, 2.0):  # exact; that of the random matrix is rounded
            assert bound <= value**steps * 1.1
    assert rows[0.8, "quiet"][0] < 1e-5
    assert rows[2.0, "quiet"][0] > 100
    assert rows[2.0, "loud"][0] < 0.1
    (random_matrix,) = (found for (value, _), (found, _) in rows.items() if 1 < value < 2)
    assert random_matrix < 0.1


def test_clipping_arrives_where_the_free_descent_does_not(shown):
    free, clipped = re.search(rf"E in the end: free {NUMBER}, clipped {NUMBER}", shown).groups()
    assert float(free) == pytest.approx((1 - 0.4) ** 2, abs=0.005)  # tanh has reached one
    assert float(clipped) < 0.05


def test_rectifiers_and_open_forget_gates_keep_gradients_alive(shown):
    tanh, irnn, gru = (
        number(f"first over last:.*{name}", shown) for name in ("tanh", "IRNN", "GRU")
    )
    assert max(tanh, gru) < 0.01 < 0.1 < irnn
    memory = [number(rf"LSTM:.*b_f = {bias}:", shown) for bias in (0, 1, 3, 5)]
    assert memory == sorted(memory)
    assert memory[0] < 1e-5
    assert memory[-1] > 0.1


def test_the_plain_net_fails_where_the_others_learn_to_add(shown):
    mean = number("always saying 1:", shown)
    assert mean == pytest.approx(1 / 6, rel=0.1)  # the variance of a sum of two uniform numbers
    assert number(r"\ntanh ", shown) > 0.85 * mean
    assert number(r"\nIRNN ", shown) < 0.5 * mean
    assert max(number(rf"\n{name} ", shown) for name in ("GRU", "LSTM")) < 0.1 * mean


def test_order_counts_for_the_language_model(shown, captioner):
    """The first sentence's log-probability, by teacher forcing in place of steps."""
    first, *shuffled = [float(found) for found in re.findall(rf"log p =\s+{NUMBER}   \w", shown)][
        :4
    ]
    decoder, vocabulary = captioner.checkpoint.model.decoder, captioner.checkpoint.vocabulary
    D = decoder.sizes.feature_size
    blind = Features(torch.zeros(1, D), torch.zeros(1, 7, D))
    tokens = torch.tensor(vocabulary.encode(tokenize("A cat is sitting on a table.")))
    with torch.inference_mode():
        log_probs = decoder(blind, pack_sequence([tokens[:-1]])).log_softmax(1)
    assert first == pytest.approx(log_probs.gather(1, tokens[1:, None]).sum().item(), abs=0.01)
    assert first > max(shuffled)


def test_v_is_what_tells_drawn_images_apart(shown):
    images, seeing, blind = numbers("different captions of ", shown)
    assert (images, blind) == (8, 1)
    assert seeing >= 5


def test_the_first_row_of_the_table_is_the_decoders_own_caption(lecture, captioner):
    folder, notebook = lecture
    tables = [
        output["data"]["text/html"]
        for output in outputs(notebook)
        if "text/html" in output.get("data", {})
    ]
    (table,) = [table for table in tables if "v and grid" in table]
    text, log_prob, *others = re.findall(r"<td>(.*?)</td>", table)
    beam = BeamSearch(width=5, length_penalty=0.5, no_repeat_ngram=2)
    caption = captioner.caption(folder / "runs" / "photos" / "cat.png", search=beam)
    assert text == caption.text
    assert float(log_prob) == pytest.approx(caption.log_prob, abs=0.01)
    assert float(log_prob) > float(others[-1])
