"""Presets: one caption by the equations of the papers, in NumPy."""

import numpy as np
import pytest
import torch
from numpy_cells import softmax, step_cell
from small_decoder import CAPTIONS, H, build_decoder, random_features, step_caption

from captioning.checkpoint import Checkpoint, ModelInfo, load_checkpoint, save_checkpoint
from captioning.decoding import BeamSearch
from captioning.errors import ConfigError
from captioning.nn.decoder import Decoder
from captioning.nn.encoder import Encoder
from captioning.nn.encoder_config import EncoderConfig
from captioning.nn.model import CaptionModel
from captioning.nn.presets import PRESETS, preset
from captioning.text.vocabulary import Vocabulary

ZERO = np.zeros(H)


def linear(w, name, x):
    return w[f"{name}.weight"] @ x + w.get(f"{name}.bias", 0.0)


def step(w, cell, name, x, state, image=0.0):
    """One step of the cell with the weights under a name."""
    weights = {key: w[f"{name}.{key}"] for key in ("W_xh", "W_hh", "b")}
    return step_cell(cell, weights, x, state, image)


def step_lstm(w, name, x, h, c, image=0.0):
    return step(w, "lstm", name, x, (h, c), image)


def predict(w, r):
    return softmax(linear(w, "W_rw", r))


def attend(w, grid, h):
    """The context vector z of soft attention over the projected grid."""
    keys = grid @ w["core.attention.W_ae.weight"].T
    energies = np.tanh(keys + linear(w, "core.attention.W_he", h))
    return softmax(energies @ w["core.attention.w_e.weight"][0]) @ grid


def project_grid(w, grid):
    return np.maximum(grid @ w["core.attention.W_a.weight"].T + w["core.attention.W_a.bias"], 0)


def m_rnn(w, v, grid, words):
    r = ZERO
    for word in words:
        x = np.maximum(linear(w, "W_ee", word), 0)
        (r,) = step(w, "relu_rnn", "core.cell", x, (r,))
        y = linear(w, "readout.W_xr", x) + linear(w, "readout.W_hr", r)
        yield predict(w, 1.7159 * np.tanh(2 * (y + linear(w, "injection.W_vr", v)) / 3))


def neuraltalk(w, v, grid, words):
    h = ZERO
    for t, x in enumerate(words):
        image = w["core.cell.W_vh"] @ v if t == 0 else 0.0
        (h,) = step(w, "relu_rnn", "core.cell", x, (h,), image)
        yield predict(w, linear(w, "readout.W_hr", h))


def show_and_tell(w, v, grid, words):
    h, c = step_lstm(w, "core.cell", linear(w, "injection.W_vx", v), ZERO, ZERO)
    for x in words:
        h, c = step_lstm(w, "core.cell", x, h, c)
        yield predict(w, linear(w, "readout.W_hr", h))


def lrcn(w, v, grid, words):
    h1 = c1 = h2 = c2 = ZERO
    # The second layer reads [h1; v] through one matrix.
    joined = {f"joined.{key}": w[f"core.upper.0.{key}"] for key in ("W_hh", "b")}
    joined["joined.W_xh"] = np.concatenate([w["core.upper.0.W_xh"], w["core.upper.0.W_vh"]], 1)
    for x in words:
        h1, c1 = step_lstm(w, "core.cell", x, h1, c1)
        h2, c2 = step_lstm(joined, "joined", np.concatenate([h1, v]), h2, c2)
        yield predict(w, linear(w, "readout.W_hr", h2))


def minds_eye(w, v, grid, words):
    s = u = ZERO
    for x in words:
        (s,) = step(w, "rnn", "core.cell", x, (s,), w["core.cell.W_vh"] @ v)
        (u,) = step(w, "rnn", "core.memory", x, (u,))
        yield predict(w, linear(w, "readout.W_hr", s) + linear(w, "readout.W_zr", u))


def show_attend_tell(w, v, grid, words):
    h, c = np.split(np.tanh(linear(w, "injection.W_v0", v)), 2)
    grid = project_grid(w, grid)
    for x in words:
        z = attend(w, grid, h)
        h, c = step_lstm(w, "core.cell", x, h, c, linear(w, "core.W_zh", z))
        r = linear(w, "readout.W_xr", x) + linear(w, "readout.W_hr", h)
        yield predict(w, r + linear(w, "readout.W_zr", z))


def up_down(w, v, grid, words):
    h1 = c1 = h2 = c2 = ZERO
    grid = project_grid(w, grid)
    for x in words:
        gates = w["core.cell.W_vh"] @ v + linear(w, "core.W_sh", h2)
        h1, c1 = step_lstm(w, "core.cell", x, h1, c1, gates)
        h2, c2 = step_lstm(w, "core.second", np.concatenate([attend(w, grid, h1), h1]), h2, c2)
        yield predict(w, linear(w, "readout.W_hr", h2))


def language_model(w, v, grid, words):
    h = c = ZERO
    for x in words:
        h, c = step_lstm(w, "core.cell", x, h, c)
        yield predict(w, linear(w, "readout.W_hr", h))


EQUATIONS = {
    "m-rnn": m_rnn,
    "neuraltalk": neuraltalk,
    "show-and-tell": show_and_tell,
    "lrcn": lrcn,
    "minds-eye": minds_eye,
    "show-attend-tell": show_attend_tell,
    "up-down": up_down,
    "language-model": language_model,
}


@pytest.mark.parametrize("name", PRESETS)
def test_preset_step_follows_published_equations(name):
    decoder, features = build_decoder(name).eval(), random_features(1)
    w = {key: tensor.numpy() for key, tensor in decoder.state_dict().items()}
    words = [w["embedding.weight"][word] for word in CAPTIONS[0]]
    expected = list(EQUATIONS[name](w, features.vector[0].numpy(), features.grid[0].numpy(), words))
    probabilities = step_caption(decoder, features, CAPTIONS[0])[0].exp().detach().numpy()
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)


@pytest.mark.parametrize("name", PRESETS)
def test_checkpoint_of_preset_round_trips(name, tmp_path):
    vocabulary = Vocabulary.build([["a", "b", "c", "d", "e", "f", "g"]], min_count=1)
    encoder = Encoder(EncoderConfig("timm:test_resnet", weights=None))
    config = build_decoder(name).config
    decoder = Decoder(config, vocabulary_size=len(vocabulary), feature_size=encoder.feature_size)
    model = CaptionModel(encoder, decoder).eval()
    saved = Checkpoint(model, vocabulary, BeamSearch(), ModelInfo(name=name))
    save_checkpoint(saved, tmp_path / "model", dtype=torch.float32)
    loaded = load_checkpoint(tmp_path / "model").model.decoder
    assert loaded.config == decoder.config
    weights = loaded.state_dict()
    assert weights.keys() == decoder.state_dict().keys()
    assert all(torch.equal(weight, weights[key]) for key, weight in decoder.state_dict().items())


def test_preset_unknown_name_suggests_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'lrcn'"):
        preset("lrnc")
