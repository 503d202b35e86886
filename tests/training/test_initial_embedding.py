"""Pretrained word vectors in a run, against NumPy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_run import config, initialize

from captioning.errors import ConfigError, DataError
from captioning.training.callback import TrainingCallback
from captioning.training.prepare import prepare


@pytest.mark.parametrize("tied", [True, False])
def test_word_vectors_start_the_embedding(tied, tmp_path):
    values = np.random.default_rng(3).normal(2.0, 5.0, (3, 16)).astype(np.float32)
    words = ["a", "ball", "quetzal"]  # the last is in no caption
    lines = [f"{w} {' '.join(map(str, row))}\n" for w, row in zip(words, values, strict=True)]
    path = tmp_path / "vectors.txt"
    path.write_text("".join(lines))
    messages = []
    run = config(tmp_path / "run")
    run = replace(run, decoder=replace(run.decoder, tie_weights=tied))
    before = prepare(run, TrainingCallback()).decoder
    after = prepare(replace(run, word_vectors=path), TrainingCallback(messages.append))
    expected = before.embedding.weight.detach().numpy().copy()
    for word, row in zip(words[:2], values, strict=False):
        scale = 16**-0.5 / np.sqrt((values[:2] ** 2).mean())
        expected[after.vocabulary.id(word)] = row * scale
    found = after.decoder.embedding.weight.detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert torch.equal(after.decoder.W_rw.weight, after.decoder.embedding.weight) == tied
    count = len(after.vocabulary) - 4
    assert f"Word vectors: vectors.txt has 2 of {count} words." in messages


def test_word_vectors_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "vectors.txt"
    run = replace(config(tmp_path / "run"), word_vectors=path)
    with pytest.raises(ConfigError, match="Remove word_vectors or init_from"):
        initialize(run, tmp_path)
    callback = TrainingCallback(on_progress=pytest.fail)  # the file is checked first
    path.write_text("a 1 2 3\n")
    with pytest.raises(DataError, match="Set embedding_size to 3"):
        prepare(run, callback)
    path.write_text("Ball" + 16 * " 1" + "\n")
    with pytest.raises(DataError, match="has none of the"):
        prepare(run, TrainingCallback())
