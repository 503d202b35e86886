"""Presets: steps against the equations of the papers, and properties of all decoders."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_decoder import CAPTIONS, EOS, D, P, V, by_caption, images, packed, stepped

from captioning.checkpoint import Checkpoint, ModelInfo, load_checkpoint, save_checkpoint
from captioning.decoding import BeamSearch
from captioning.decoding.constraints import TokenConstraints
from captioning.decoding.search import search
from captioning.errors import ConfigError
from captioning.nn import Decoder, DecoderConfig, Encoder, EncoderConfig, Features
from captioning.nn.model import CaptionModel
from captioning.nn.presets import PRESETS, preset
from captioning.text.vocabulary import Vocabulary

E, H = 5, 7
CELLS = ("rnn", "relu_rnn", "gru", "lstm")
# Every cell in what no preset has: several layers under each injection, a factored stack, and
# each of the special layers with another cell than its paper's.
MORE = {
    **{
        f"{cell}, {injection}, 3 layers": DecoderConfig(cell=cell, injection=injection, layers=3)
        for cell in CELLS
        for injection in ("recurrent", "first_word", "first_step", "init_state", "merge")
    },
    "lstm, every_input, 2 layers": DecoderConfig(injection="every_input", layers=2),
    "lstm, none, 2 layers": DecoderConfig(injection="none", layers=2),
    "lstm, 2 layers, attention": DecoderConfig(layers=2, core="attention"),
    "gru, factored": DecoderConfig(cell="gru", layers=3, factored=True),
    "rnn, factored": DecoderConfig(cell="rnn", layers=2, factored=True, injection="first_word"),
    "gru, deep output": DecoderConfig(cell="gru", readout="deep", embedding_layers=2),
    "lstm, merge, deep output": DecoderConfig(injection="merge", readout="deep"),
    "lstm, reconstruct, deep output": DecoderConfig(core="memory", readout="deep"),
    "gru, multimodal": DecoderConfig(cell="gru", injection="merge", readout="multimodal"),
    "lstm, reconstruct": DecoderConfig(core="memory", layers=2, embedding_layers=2),
    "gru, reconstruct": DecoderConfig(cell="gru", injection="first_step", core="memory"),
    "relu_rnn, reconstruct": DecoderConfig(cell="relu_rnn", injection="init_state", core="memory"),
}
KINDS = {**{name: preset(name) for name in PRESETS}, **MORE}
each_preset = pytest.mark.parametrize("name", PRESETS)
each_kind = pytest.mark.parametrize("name", KINDS)


def build(name, **options) -> Decoder:
    """A small decoder in float64, with weights large enough to make words differ."""
    sizes = {"embedding_size": E, "hidden_size": H, "attention_size": 6, "dropout": 0.0}
    shape = replace(KINDS[name], **{**sizes, **options})
    decoder = Decoder(shape, vocabulary_size=V, feature_size=D).double()
    for weight in decoder.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return decoder


# --- one caption by the papers' equations, in NumPy ---------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def lstm(w, cell, x, h, c, image=0.0):
    gates = w[f"{cell}.W_xh"] @ x + w[f"{cell}.W_hh"] @ h + w[f"{cell}.b"] + image
    f, i, o, g = np.split(gates, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def words(w, r):
    return softmax(w["W_rw.weight"] @ r + w["W_rw.bias"])


def linear(w, name, x):
    return w[f"{name}.weight"] @ x + w.get(f"{name}.bias", 0.0)


def m_rnn(w, v, grid, caption):
    r, found = np.zeros(H), []
    for word in caption:
        x = np.maximum(linear(w, "W_ee", w["embedding.weight"][word]), 0)
        r = np.maximum(w["core.cell.W_hh"] @ r + w["core.cell.W_xh"] @ x + w["core.cell.b"], 0)
        y = (
            linear(w, "readout.W_xr", x)
            + linear(w, "readout.W_hr", r)
            + linear(w, "injection.W_vr", v)
        )
        found.append(words(w, 1.7159 * np.tanh(2 * y / 3)))
    return found


def neuraltalk(w, v, grid, caption):
    h, found = np.zeros(H), []
    for t, word in enumerate(caption):
        image = w["core.cell.W_vh"] @ v if t == 0 else 0.0
        x = w["embedding.weight"][word]
        h = np.maximum(
            w["core.cell.W_xh"] @ x + w["core.cell.W_hh"] @ h + w["core.cell.b"] + image, 0
        )
        found.append(words(w, linear(w, "readout.W_hr", h)))
    return found


def show_and_tell(w, v, grid, caption):
    h, c = lstm(w, "core.cell", linear(w, "injection.W_vx", v), np.zeros(H), np.zeros(H))
    found = []
    for word in caption:
        h, c = lstm(w, "core.cell", w["embedding.weight"][word], h, c)
        found.append(words(w, linear(w, "readout.W_hr", h)))
    return found


def lrcn(w, v, grid, caption):
    h1 = c1 = h2 = c2 = np.zeros(H)
    # The second layer reads [h1; v] through one matrix.
    w = {**w, "joined.W_hh": w["core.upper.0.W_hh"], "joined.b": w["core.upper.0.b"]}
    w["joined.W_xh"] = np.concatenate([w["core.upper.0.W_xh"], w["core.upper.0.W_vh"]], 1)
    found = []
    for word in caption:
        h1, c1 = lstm(w, "core.cell", w["embedding.weight"][word], h1, c1)
        h2, c2 = lstm(w, "joined", np.concatenate([h1, v]), h2, c2)
        found.append(words(w, linear(w, "readout.W_hr", h2)))
    return found


def minds_eye(w, v, grid, caption):
    s = u = np.zeros(H)
    found = []
    for word in caption:
        x = w["embedding.weight"][word]
        s = np.tanh(
            w["core.cell.W_xh"] @ x
            + w["core.cell.W_hh"] @ s
            + w["core.cell.W_vh"] @ v
            + w["core.cell.b"]
        )
        u = np.tanh(w["core.memory.W_xh"] @ x + w["core.memory.W_hh"] @ u + w["core.memory.b"])
        found.append(words(w, linear(w, "readout.W_hr", s) + linear(w, "readout.W_zr", u)))
    return found


def soft_attention(w, places, h):
    asked = linear(w, "core.attention.W_he", h)
    scores = (
        np.tanh(places @ w["core.attention.W_ae.weight"].T + asked)
        @ w["core.attention.w_e.weight"][0]
    )
    return softmax(scores) @ places


def show_attend_tell(w, v, grid, caption):
    h, c = np.split(np.tanh(linear(w, "injection.W_v0", v)), 2)
    places = np.maximum(grid @ w["core.attention.W_a.weight"].T + w["core.attention.W_a.bias"], 0)
    found = []
    for word in caption:
        z = soft_attention(w, places, h)
        h, c = lstm(w, "core.cell", w["embedding.weight"][word], h, c, linear(w, "core.W_zh", z))
        last = linear(w, "readout.W_xr", w["embedding.weight"][word])
        found.append(words(w, last + linear(w, "readout.W_hr", h) + linear(w, "readout.W_zr", z)))
    return found


def up_down(w, v, grid, caption):
    h1 = c1 = h2 = c2 = np.zeros(H)
    places = np.maximum(grid @ w["core.attention.W_a.weight"].T + w["core.attention.W_a.bias"], 0)
    found = []
    for word in caption:
        above = w["core.cell.W_vh"] @ v + linear(w, "core.W_sh", h2)
        h1, c1 = lstm(w, "core.cell", w["embedding.weight"][word], h1, c1, above)
        z = soft_attention(w, places, h1)
        h2, c2 = lstm(w, "core.second", np.concatenate([z, h1]), h2, c2)
        found.append(words(w, linear(w, "readout.W_hr", h2)))
    return found


def language_model(w, v, grid, caption):
    h = c = np.zeros(H)
    found = []
    for word in caption:
        h, c = lstm(w, "core.cell", w["embedding.weight"][word], h, c)
        found.append(words(w, linear(w, "readout.W_hr", h)))
    return found


ORACLES = [
    m_rnn,
    neuraltalk,
    show_and_tell,
    lrcn,
    minds_eye,
    show_attend_tell,
    up_down,
    language_model,
]


@pytest.mark.parametrize("oracle", ORACLES, ids=lambda oracle: oracle.__name__)
def test_preset_step_follows_the_paper(oracle):
    decoder, features = build(oracle.__name__.replace("_", "-")).eval(), images(1)
    w = {name: tensor.numpy() for name, tensor in decoder.state_dict().items()}
    expected = oracle(w, features.vector[0].numpy(), features.grid[0].numpy(), CAPTIONS[0])
    found = stepped(decoder, features, CAPTIONS[0])[0].exp().detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_preset_has_an_oracle():
    assert {oracle.__name__.replace("_", "-") for oracle in ORACLES} == set(PRESETS)


# --- what all of them keep ------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("recording", [False, True])
def test_preset_step_agrees_with_teacher_forcing(name, recording):
    decoder, features = build(name).eval(), images()
    with torch.set_grad_enabled(recording):
        together = by_caption(decoder(features, packed(CAPTIONS)).log_softmax(1), CAPTIONS)
        for i, caption in enumerate(CAPTIONS):
            alone = stepped(decoder, features.select(torch.tensor([i])), caption)[0]
            torch.testing.assert_close(alone.double(), together[i], rtol=0, atol=1e-5)


@each_kind
def test_preset_captions_can_share_an_image(name):
    decoder, features = build(name), images(2)
    image = torch.tensor([1, 0, 1, 1])
    shared = decoder(features, packed(CAPTIONS), image)
    repeated = decoder(features.select(image), packed(CAPTIONS))
    torch.testing.assert_close(shared, repeated, rtol=0, atol=1e-6)


@each_kind
def test_preset_image_changes_words_unless_none(name):
    decoder, features = build(name), images()
    other = Features(features.vector + 1, features.grid)
    same = torch.equal(decoder(features, packed(CAPTIONS)), decoder(other, packed(CAPTIONS)))
    assert same == (KINDS[name].injection == "none")


@each_kind
def test_preset_gradients_match_finite_differences(name):
    decoder, features = build(name), images(2)
    names = [key for key, _ in decoder.named_parameters()]
    weights = [weight.detach().requires_grad_() for weight in decoder.parameters()]
    vector = features.vector.requires_grad_()
    tokens = packed(CAPTIONS[1:3])

    def loss(vector, *weights):
        given = dict(zip(names, weights, strict=True))
        taught = torch.func.functional_call(
            Taught(decoder),
            {f"decoder.{key}": weight for key, weight in given.items()},
            (Features(vector, features.grid), tokens),
            tie_weights=True,
        )
        return taught.sin().sum()

    assert torch.autograd.gradcheck(loss, (vector, *weights), fast_mode=True)


class Taught(torch.nn.Module):
    """All that teaching returns, in one tensor."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, features, tokens):
        taught = self.decoder.teach(features, tokens)
        if taught.reconstruction is None:
            return taught.logits
        return torch.cat([taught.logits, taught.reconstruction], 1)


@each_kind
def test_preset_initial_loss_is_log_vocabulary_size(name):
    shape = replace(KINDS[name], embedding_size=64, hidden_size=64, tie_weights=False)
    decoder = Decoder(shape, vocabulary_size=500, feature_size=32).eval()
    features = Features(torch.rand(4, 32), torch.rand(4, P, 32))
    targets = packed([[*caption[1:], EOS] for caption in CAPTIONS]).data
    loss = torch.nn.functional.cross_entropy(decoder(features, packed(CAPTIONS)), targets)
    assert abs(loss.item() - math.log(500)) < 0.3


@each_kind
def test_preset_overfits_one_batch(name):
    sizes = {"embedding_size": 24, "hidden_size": 32, "attention_size": 16, "dropout": 0.0}
    shape = replace(KINDS[name], **sizes)
    decoder = Decoder(shape, vocabulary_size=V, feature_size=D)
    features = Features(images().vector.float(), images().grid.float())
    captions = [[1, *range(4, 8)]] * 4 if shape.injection == "none" else CAPTIONS
    targets = packed([[*caption[1:], EOS] for caption in captions]).data
    optimizer = torch.optim.Adam(decoder.parameters(), lr=0.01)
    for _ in range(150):
        logits = decoder(features, packed(captions))
        loss = torch.nn.functional.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
    assert loss < 0.1
    found = search(
        decoder.eval().step, decoder.start(features), BeamSearch(), TokenConstraints(1, EOS)
    )
    assert [list(best.tokens) for (best,) in found] == [caption[1:] for caption in captions]


@each_kind
def test_beam_search_wide_beam_equals_enumeration(name):
    """Against every caption of up to two of three words, by teacher forcing."""
    decoder, features = build(name).eval(), images(1)
    allowed = (4, 5, 6)
    every = [(a,) for a in allowed] + [(a, b) for a in allowed for b in allowed]
    given = [[1, *caption] for caption in every]
    with torch.no_grad():
        logits = decoder(features, packed(given), torch.zeros(len(every), dtype=torch.int64))
        rows = by_caption(logits.log_softmax(1), given)
    likely = {
        caption: sum(float(row[t, word]) for t, word in enumerate((*caption, EOS)))
        for caption, row in zip(every, rows, strict=True)
    }
    how = BeamSearch(width=40, n=12, length_penalty=0.0, max_length=2)
    banned = tuple(word for word in range(V) if word not in (*allowed, EOS))
    constraints = TokenConstraints(1, EOS, banned)
    (found,) = search(decoder.step, decoder.start(features), how, constraints)
    assert [best.tokens for best in found] == sorted(likely, key=lambda c: -likely[c])


@each_preset
def test_checkpoint_of_preset_round_trips(name, tmp_path):
    vocabulary = Vocabulary.build([["a", "b", "c", "d", "e", "f", "g"]], min_count=1)
    encoder = Encoder(EncoderConfig("timm:test_resnet", weights=None))
    sizes = {"embedding_size": E, "hidden_size": H, "attention_size": 6}
    shape = replace(KINDS[name], **sizes)
    decoder = Decoder(shape, vocabulary_size=len(vocabulary), feature_size=encoder.feature_size)
    model = CaptionModel(encoder, decoder).eval()
    saved = Checkpoint(model, vocabulary, BeamSearch(), ModelInfo(name=name))
    save_checkpoint(saved, tmp_path / "model", dtype=torch.float32)
    loaded = load_checkpoint(tmp_path / "model").model.decoder
    assert loaded.config == decoder.config
    weights = loaded.state_dict()
    assert weights.keys() == decoder.state_dict().keys()
    assert all(torch.equal(weight, weights[key]) for key, weight in decoder.state_dict().items())


# --- what is special to some ----------------------------------------------------------------------


def test_memory_core_memory_ignores_image():
    decoder, features = build("minds-eye").eval(), images()
    other = Features(features.vector + 1, features.grid)
    first = decoder.teach(features, packed(CAPTIONS)).reconstruction
    assert torch.equal(first, decoder.teach(other, packed(CAPTIONS)).reconstruction)
    changed = [[1, 4, 5, 6, 8], *CAPTIONS[1:]]
    last = by_caption(decoder.teach(features, packed(changed)).reconstruction, CAPTIONS)[0]
    first = by_caption(first, CAPTIONS)[0]
    assert torch.equal(first[:4], last[:4])
    assert not torch.equal(first[4], last[4])


def test_factored_stack_first_layer_ignores_image():
    decoder, features = build("lrcn").eval(), images(1)
    other = Features(features.vector + 1, features.grid)
    states = []
    for given in (features, other):
        state = decoder.start(given)
        for word in CAPTIONS[0]:
            _, state = decoder.step(torch.tensor([word]), state)
        states.append(state.recurrent)
    (h2, _, h1, c1), (other_h2, _, other_h1, other_c1) = states
    assert torch.equal(h1, other_h1)
    assert torch.equal(c1, other_c1)
    assert not torch.equal(h2, other_h2)


def test_word_table_follows_every_weight():
    for name in ("m-rnn", "minds-eye"):
        decoder, features = build(name).eval(), images()
        with torch.no_grad():
            stepped(decoder, features, [1, 4])
            for key, weight in decoder.named_parameters():
                weight.add_(0.3)
                expected = by_caption(
                    decoder(features, packed([[1, 4]] * 4)).log_softmax(1), [[1, 4]] * 4
                )
                found = stepped(decoder, features, [1, 4]).double()
                assert torch.allclose(found, torch.stack(expected), rtol=0, atol=1e-5), key


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"layers": 0}, "layers is 0"),
        ({"layers": 10**9}, "layers is 1000000000. Use 1 to 100"),
        ({"hidden_size": 10**30}, "hidden_size is 1000.*Use 1 to 1000000000"),
        ({"embedding_layers": 3}, "embedding_layers is 3"),
        ({"factored": True}, "layers is 1 "),
        ({"factored": True, "layers": 2, "core": "attention"}, "no attention"),
        ({"factored": True, "layers": 2, "injection": "every_input"}, "injection is every_input"),
        ({"factored": True, "layers": 2, "injection": "none"}, "injection is none"),
        ({"readout": "multimodal"}, "injection is recurrent"),
        ({"core": "memory", "injection": "none"}, "needs an image"),
        ({"core": "top_down", "layers": 2}, "layers is 2"),
    ],
)
def test_decoder_config_invalid_combination_raises(settings, said):
    with pytest.raises(ConfigError, match=said):
        DecoderConfig(**settings)


def test_preset_unknown_name_suggests_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'lrcn'"):
        preset("lrnc")
