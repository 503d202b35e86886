"""The lecture notebook runs, and its printed results support the statements in its text."""

import re
from pathlib import Path

import nbformat
import pytest
import torch
from notebook_scripts import load_build_notebooks
from torch.nn.utils.rnn import pack_sequence

from captioning import BeamSearch, Captioner, tokenize
from captioning.nn.features import Features

pytestmark = pytest.mark.xdist_group("lecture")  # one process runs the notebook
ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "recurrent_networks.ipynb"
NUMBER = r"(-?[\d.]+(?:e[+-]\d+)?)"


def get_outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def count_figures(notebook):
    kinds = {"image/png", "image/jpeg"}
    return sum(bool(kinds & set(output.get("data", {}))) for output in get_outputs(notebook))


@pytest.fixture(scope="module")
def lecture(tmp_path_factory):
    """The executed notebook and its folder, in a copy of the repository layout."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    return load_build_notebooks().run(notebook, tmp_path_factory.mktemp("checkout")), notebook


@pytest.fixture(scope="module")
def printed(lecture):
    """The printed text of the notebook, tables included."""
    outputs = get_outputs(lecture[1])
    return "\n".join(o.get("text", o.get("data", {}).get("text/plain", "")) for o in outputs)


@pytest.fixture(scope="module")
def captioner():
    return Captioner.from_pretrained(precision="float32")


def find_number(pattern, printed):
    return float(re.search(pattern + r"\s*" + NUMBER, printed)[1])


def find_numbers(pattern, printed):
    line = re.search(rf"{pattern}(.*)", printed)[1]
    return [float(number) for number in re.findall(NUMBER, line)]


def test_lecture_draws_all_figures(lecture):
    assert count_figures(lecture[1]) == count_figures(nbformat.read(NOTEBOOK, as_version=4)) == 19


def test_lecture_bag_of_words_loses_order(printed):
    assert "Both reviews have the same bag: True" in printed
    nearest, *further = find_numbers(r"\nright verb ", printed)
    assert nearest > 99
    assert all(50 < right < 90 for right in further)
    assert find_number("Largest error for one sentence length:", printed) < 5
    assert find_number("Distance between the two bags:", printed) < 1e-5
    assert find_number("Distance between the two last states:", printed) > 0.1


def test_lecture_hand_written_code_matches_package(printed):
    assert find_number("Largest difference from captioning.nn.cells.RNNCell:", printed) < 1e-5
    assert max(find_numbers("largest difference from autograd", printed)) < 1e-12
    assert max(find_numbers("largest difference from finite differences", printed)) < 1e-7
    assert "The sum of all terms is the gradient above: True" in printed
    assert find_number("largest difference from the cell state of the decoder:", printed) < 1e-5


def test_lecture_gradients_are_within_bound(printed):
    rows = {
        (float(value), inputs): tuple(map(float, rest))
        for value, _, inputs, *rest in re.findall(
            rf". = {NUMBER}, radius {NUMBER}, (\w+) inputs\s+{NUMBER}\s+{NUMBER}",
            printed,
        )
    }
    assert len(rows) == 5
    steps = 59
    for (value, _), (ratio, bound) in rows.items():
        assert ratio <= bound * 1.1  # printed with two digits
        if value in (0.8, 1.0, 2.0):  # the random matrix has a rounded value
            assert bound <= value**steps * 1.1
    assert rows[0.8, "small"][0] < 1e-5
    assert rows[2.0, "small"][0] > 100
    assert rows[2.0, "large"][0] < 0.1
    (random_matrix,) = (ratio for (value, _), (ratio, _) in rows.items() if 1 < value < 2)
    assert random_matrix < 0.1


def test_lecture_clipped_descent_reaches_minimum(printed):
    free, clipped = re.search(
        rf"E after the last step: {NUMBER} without clipping, {NUMBER} with", printed
    ).groups()
    assert float(free) == pytest.approx((1 - 0.4) ** 2, abs=0.005)  # tanh saturates at one
    assert float(clipped) < 0.05


def test_lecture_relu_and_forget_bias_preserve_gradients(printed):
    tanh, relu, gru = (
        find_number(f"Hidden state, .*{name}", printed) for name in ("tanh", "ReLU", "GRU")
    )
    assert max(tanh, gru) < 0.01 < 0.1 < relu
    memory = [find_number(f"of an LSTM, .*b_f = {bias}:", printed) for bias in (0, 1, 3, 5)]
    assert memory == sorted(memory)
    assert memory[0] < 1e-5
    assert memory[-1] > 0.1


def test_lecture_tanh_rnn_fails_adding_task(printed):
    mean = find_number("\nconstant 1", printed)
    assert mean == pytest.approx(1 / 6, rel=0.1)  # the variance of a sum of two uniform numbers
    assert find_number(r"\ntanh ", printed) > 0.85 * mean
    assert find_number(r"\nReLU ", printed) < 0.5 * mean
    assert max(find_number(rf"\n{name} ", printed) for name in ("GRU", "LSTM")) < 0.1 * mean


def test_lecture_language_model_prefers_correct_order(printed, captioner):
    """The oracle computes the log-probability by teacher forcing instead of stepping."""
    log_probs = re.findall(rf"log p =\s+{NUMBER}   \w", printed)[:4]
    first, *shuffled = map(float, log_probs)
    decoder, vocabulary = captioner.checkpoint.model.decoder, captioner.checkpoint.vocabulary
    D = decoder.sizes.feature_size
    features = Features(torch.zeros(1, D), torch.zeros(1, 7, D))
    tokens = torch.tensor(vocabulary.encode(tokenize("A cat is sitting on a table.")))
    with torch.inference_mode():
        log_probs = decoder(features, pack_sequence([tokens[:-1]])).log_softmax(1)
    assert first == pytest.approx(log_probs.gather(1, tokens[1:, None]).sum().item(), abs=0.01)
    assert first > max(shuffled)


def test_lecture_lstm_uses_word_order_for_sentiment(printed):
    lstm, bag = find_numbers("Right class for new messages: ", printed)
    assert lstm > 95
    assert bag < 60


def test_lecture_captions_differ_only_with_image_vector(printed):
    images, with_v, without_v = find_numbers("Different captions of ", printed)
    assert (images, without_v) == (8, 1)
    assert with_v >= 5


def test_lecture_table_first_row_is_decoder_caption(lecture, captioner):
    folder, notebook = lecture
    tables = [
        output["data"]["text/html"]
        for output in get_outputs(notebook)
        if "text/html" in output.get("data", {})
    ]
    (table,) = [table for table in tables if "v and grid" in table]
    text, log_prob, *others = re.findall(r"<td>(.*?)</td>", table)
    beam = BeamSearch(width=5, length_penalty=0.5, no_repeat_ngram=2)
    caption = captioner.caption(folder / "runs" / "photos" / "cat.png", search=beam)
    assert text == caption.text
    assert float(log_prob) == pytest.approx(caption.log_prob, abs=0.01)
    assert float(log_prob) > float(others[-1])
