"""Decoder: stepping against teacher forcing, and dependence on images and words."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_decoder import CAPTIONS, EOS, D, P, V, by_caption, images, packed, stepped

from captioning.decoding import BeamSearch
from captioning.decoding.constraints import TokenConstraints
from captioning.decoding.search import search
from captioning.errors import ConfigError
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.features import Features
from captioning.nn.injections import INJECTIONS

TOP_DOWN = "top_down"
CHOICES = [
    (cell, injection, attention)
    for cell in ("rnn", "relu_rnn", "gru", "lstm")
    for injection in INJECTIONS
    for attention in (False, True, TOP_DOWN)
    if not (attention and injection == "none")
]
each_choice = pytest.mark.parametrize(("cell", "injection", "attention"), CHOICES)
each_kind = pytest.mark.parametrize(
    ("injection", "attention"), sorted({choice[1:] for choice in CHOICES}, key=str)
)


def core_of(attention):
    return TOP_DOWN if attention == TOP_DOWN else "attention" if attention else "stack"


def build(cell="lstm", injection="recurrent", attention=False, **options) -> Decoder:
    """A small decoder in float64 with weights large enough to make words differ."""
    sizes = {"embedding_size": 5, "hidden_size": 7, "attention_size": 6, "dropout": 0.0}
    config = DecoderConfig(
        cell=cell,
        injection=injection,
        core=core_of(attention),
        **{**sizes, **options},
    )
    decoder = Decoder(config, vocabulary_size=V, feature_size=D).double()
    for weight in decoder.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return decoder


def forced(decoder, features, captions, image=None):
    """Teacher-forced log-probabilities, one tensor per caption."""
    return by_caption(decoder(features, packed(captions), image).log_softmax(1), captions)


@each_choice
@pytest.mark.parametrize("recording", [False, True])
def test_step_agrees_with_teacher_forcing(cell, injection, attention, recording):
    decoder, features = build(cell, injection, attention).eval(), images()
    with torch.set_grad_enabled(recording):
        together = forced(decoder, features, CAPTIONS)
        for i, caption in enumerate(CAPTIONS):
            alone = stepped(decoder, features.select(torch.tensor([i])), caption)[0]
            torch.testing.assert_close(alone.double(), together[i], rtol=0, atol=1e-5)


@each_kind
def test_teach_caption_is_independent_of_batch(injection, attention):
    decoder, features = build("lstm", injection, attention), images()
    together = forced(decoder, features, CAPTIONS)
    for i, caption in enumerate(CAPTIONS):
        (alone,) = forced(decoder, features.select(torch.tensor([i])), [caption])
        torch.testing.assert_close(alone, together[i], rtol=0, atol=1e-6)


@each_kind
def test_teach_captions_can_share_an_image(injection, attention):
    decoder, features = build("gru", injection, attention), images(2)
    image = torch.tensor([1, 0, 1, 1])
    shared = forced(decoder, features, CAPTIONS, image)
    repeated = forced(decoder, features.select(image), CAPTIONS)
    for a, b in zip(shared, repeated, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@each_choice
def test_image_changes_words_unless_injection_is_none(cell, injection, attention):
    decoder, features = build(cell, injection, attention), images()
    other = Features(features.vector + 1, features.grid)
    a = torch.cat(forced(decoder, features, CAPTIONS))
    b = torch.cat(forced(decoder, other, CAPTIONS))
    if injection == "none":
        assert torch.equal(a, b)
    else:
        changed = (a - b).abs().amax(1) > 1e-6
        # From the first word of each caption to the last; a rectifier may close in between.
        assert changed.any() if cell == "relu_rnn" else changed.all()


@pytest.mark.parametrize("injection", [i for i in INJECTIONS if i != "none"])
def test_grid_changes_words_only_with_attention(injection):
    features = images()
    other = Features(features.vector, features.grid + 1)
    for attention in (False, True, TOP_DOWN):
        decoder = build("lstm", injection, attention)
        a = torch.cat(forced(decoder, features, CAPTIONS))
        b = torch.cat(forced(decoder, other, CAPTIONS))
        assert torch.equal(a, b) is not bool(attention)


@each_choice
def test_decoder_gradients_match_finite_differences(cell, injection, attention):
    decoder, features = build(cell, injection, attention), images(2)
    names = [name for name, _ in decoder.named_parameters()]
    weights = [weight.detach().requires_grad_() for weight in decoder.parameters()]
    vector = features.vector.requires_grad_()
    tokens = packed(CAPTIONS[1:3])

    def loss(vector, *weights):
        given = (Features(vector, features.grid), tokens)
        logits = torch.func.functional_call(
            decoder, dict(zip(names, weights, strict=True)), given, tie_weights=True
        )
        return logits.sin().sum()

    assert torch.autograd.gradcheck(loss, (vector, *weights), fast_mode=True)


def test_image_projection_runs_once_per_image(monkeypatch):
    decoder, features = build().eval(), images()
    calls = []
    project = decoder.core.cell.project_image
    monkeypatch.setattr(
        decoder.core.cell, "project_image", lambda v: calls.append(len(v)) or project(v)
    )
    decoder(features, packed(CAPTIONS))
    assert calls == [4]
    decoder(features.select(torch.arange(2)), packed(CAPTIONS), torch.tensor([0, 0, 1, 1]))
    assert calls == [4, 2]
    search(decoder.step, decoder.start(features), BeamSearch(), TokenConstraints(1, EOS))
    assert calls == [4, 2, 4]


@each_kind
def test_search_result_is_independent_of_batch(injection, attention):
    decoder, features = build("lstm", injection, attention).eval(), images(8)
    how = BeamSearch(n=3, min_length=5, max_length=8)

    def words(rows):
        state = decoder.start(features.select(torch.tensor(rows)))
        found = search(decoder.step, state, how, TokenConstraints(1, EOS, banned=(0, 3)))
        return [[hypothesis.tokens for hypothesis in hypotheses] for hypotheses in found]

    together = words(list(range(8)))
    assert together == [words([row])[0] for row in range(8)]
    assert (len({best[0] for best in together}) > 1) == (injection != "none")


def test_state_select_can_repeat_and_drop_rows():
    decoder, features = build("lstm", "recurrent", True).eval(), images()
    _, state = decoder.step(torch.tensor([1, 3, 4, 5]), decoder.start(features))
    rows = torch.tensor([2, 0, 2])
    tokens = torch.tensor([6, 7, 8])
    chosen = state.select(rows)
    assert (len(state), len(chosen)) == (4, 3)
    log_probs, after = decoder.step(tokens, chosen)
    for n, row in enumerate(rows):
        alone = state.select(row.view(1))
        expected, expected_after = decoder.step(tokens[n : n + 1], alone)
        torch.testing.assert_close(log_probs[n : n + 1], expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(after.attention[n : n + 1], expected_after.attention)
    assert state.attention.shape == (4, P)
    torch.testing.assert_close(state.attention.sum(1), torch.ones(4).double())


def test_step_does_not_change_its_input_state():
    decoder = build("lstm", "recurrent", True).eval()
    state = decoder.start(images())
    before = [part.clone() for part in state.recurrent]
    first, _ = decoder.step(torch.tensor([1, 1, 1, 1]), state)
    assert all(torch.equal(a, b) for a, b in zip(before, state.recurrent, strict=True))
    again, _ = decoder.step(torch.tensor([1, 1, 1, 1]), state)
    assert torch.equal(first, again)


def test_word_table_follows_weights():
    decoder, features = build().eval(), images()
    with torch.no_grad():
        stepped(decoder, features, [1, 4])
        for weight in (decoder.embedding.weight, decoder.core.cell.W_xh, decoder.core.cell.b):
            weight.add_(0.5)
            expected = forced(decoder, features, [[1, 4]] * 4)
            found = stepped(decoder, features, [1, 4])
            torch.testing.assert_close(found.double(), torch.stack(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("fused", [True, False])
def test_word_table_follows_optimizer_steps(fused):
    decoder, features = build().eval(), images()
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=0.1, fused=fused)
    for _ in range(2):
        with torch.no_grad():
            stepped(decoder, features, [1, 4])
        decoder.train()
        sum(each.sum() for each in forced(decoder, features, [[1, 4]] * 4)).backward()
        optimizer.step()
        decoder.eval()
    with torch.no_grad():
        found = stepped(decoder, features, [1, 4])
        expected = torch.stack(forced(decoder, features, [[1, 4]] * 4))
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_embedding_unused_words_get_no_gradient():
    decoder = build(tie_weights=False)
    logits = decoder(images(), packed(CAPTIONS))
    assert len(logits) == sum(len(caption) for caption in CAPTIONS)  # real tokens, no padding
    logits.square().sum().backward()
    used = {token for caption in CAPTIONS for token in caption}
    moved = decoder.embedding.weight.grad.abs().sum(1).nonzero().flatten().tolist()
    assert set(moved) == used


@pytest.mark.parametrize("attention", [False, True, TOP_DOWN])
def test_decoder_overfits_one_batch(attention):
    sizes = {"embedding_size": 24, "hidden_size": 32, "attention_size": 16, "dropout": 0.0}
    options = DecoderConfig(core=core_of(attention), **sizes)
    decoder = Decoder(options, vocabulary_size=V, feature_size=D)
    features = images().to("cpu")
    targets = [[*caption[1:], EOS] for caption in CAPTIONS]
    optimizer = torch.optim.Adam(decoder.parameters(), lr=0.02)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(
            decoder(features, packed(CAPTIONS)), packed(targets).data
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    found = search(
        decoder.eval().step, decoder.start(features), BeamSearch(), TokenConstraints(1, EOS)
    )
    assert [list(best.tokens) for (best,) in found] == [caption[1:] for caption in CAPTIONS]


def test_dropout_applies_only_in_training():
    decoder, features = build(dropout=0.5), images()
    a, b = decoder(features, packed(CAPTIONS)), decoder(features, packed(CAPTIONS))
    assert not torch.equal(a, b)
    decoder.eval()
    assert torch.equal(decoder(features, packed(CAPTIONS)), decoder(features, packed(CAPTIONS)))


def test_top_down_core_follows_published_equations():
    """One step in NumPy, by the equations of Anderson et al. 2018, section 3.2."""
    decoder, features = build("lstm", "recurrent", TOP_DOWN).eval(), images(1)
    w = {name: tensor.numpy() for name, tensor in decoder.state_dict().items()}
    v, grid = features.vector[0].numpy(), features.grid[0].numpy()

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def softmax(x):
        return np.exp(x - x.max()) / np.exp(x - x.max()).sum()

    def lstm(gates, c):
        f, i, o, g = np.split(gates, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c

    h1 = c1 = h2 = c2 = np.zeros(7)
    places = np.maximum(grid @ w["core.attention.W_a.weight"].T + w["core.attention.W_a.bias"], 0)
    for word in (1, 4, 5):
        gates = w["core.cell.W_xh"] @ w["embedding.weight"][word] + w["core.cell.W_hh"] @ h1
        gates += w["core.cell.W_vh"] @ v + w["core.W_sh.weight"] @ h2 + w["core.cell.b"]
        h1, c1 = lstm(gates, c1)
        asked = w["core.attention.W_he.weight"] @ h1 + w["core.attention.W_he.bias"]
        alpha = softmax(
            np.tanh(places @ w["core.attention.W_ae.weight"].T + asked)
            @ w["core.attention.w_e.weight"][0]
        )
        gates = w["core.second.W_xh"] @ np.concatenate([alpha @ places, h1]) + w["core.second.b"]
        h2, c2 = lstm(gates + w["core.second.W_hh"] @ h2, c2)
    r = w["readout.W_hr.weight"] @ h2 + w["readout.W_hr.bias"]
    expected = np.log(softmax(w["W_rw.weight"] @ r + w["W_rw.bias"]))
    found = stepped(decoder, features, [1, 4, 5])[0, -1].detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("attention", [False, True, TOP_DOWN])
def test_teach_returns_attention_of_each_word(attention):
    decoder, features = build("lstm", "recurrent", attention).eval(), images()
    taught = decoder.teach(features, packed(CAPTIONS))
    if not attention:
        assert taught.attention is None
        return
    rows = by_caption(taught.attention, CAPTIONS)
    for i, caption in enumerate(CAPTIONS):
        state = decoder.start(features.select(torch.tensor([i])))
        for word, found in zip(caption, rows[i], strict=True):
            _, state = decoder.step(torch.tensor([word]), state)
            torch.testing.assert_close(state.attention[0], found, rtol=0, atol=1e-6)


def test_recurrent_dropout_uses_one_mask_for_all_steps():
    """With a cell that hands its state on, what was dropped once is dropped for good."""
    decoder = build("relu_rnn", "init_state", recurrent_dropout=0.5, hidden_size=400)
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.zero_()
        decoder.core.cell.W_hh.copy_(torch.eye(400))
        decoder.injection.W_v0.bias.fill_(1.0)
    seen = []
    decoder.readout.W_hr.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0])
    )
    decoder.train()
    torch.manual_seed(0)
    decoder(images(1), packed([[1, 4, 5, 6]]))
    hidden = seen.pop() / np.tanh(1)
    kept = hidden[0] > 0
    assert 120 < int(kept.sum()) < 280
    for t, row in enumerate(hidden, 1):
        assert torch.equal(row > 0, kept)
        torch.testing.assert_close(row[kept], torch.full_like(row[kept], 2.0**t))
    decoder.eval()(images(1), packed([[1, 4, 5, 6]]))
    torch.testing.assert_close(seen.pop() / np.tanh(1), torch.ones(4, 400).double())


@pytest.mark.parametrize("attention", [False, TOP_DOWN])
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_recurrent_dropout_masks_only_hidden_states(cell, attention, monkeypatch):
    """Against stepping, with each caption's hidden states masked by hand before every step."""
    decoder = build(cell, "recurrent", attention, recurrent_dropout=0.5).train()
    features, width = images(), decoder.core.cell.state_count
    hidden = [0, width] if attention else [0]  # of (h, c) and, with two cells, (h2, c2, h1, c1)
    torch.manual_seed(5)
    masks = {place: 2.0 * (torch.rand(len(CAPTIONS), 7) > 0.5).double() for place in hidden}
    order = packed(CAPTIONS).sorted_indices
    sorted_masks = {place: mask[order] for place, mask in masks.items()}
    monkeypatch.setattr(decoder, "_recurrent_masks", lambda state: sorted_masks)
    together = forced(decoder, features, CAPTIONS)
    for i, caption in enumerate(CAPTIONS):
        state = decoder.start(features.select(torch.tensor([i])))
        for word, expected in zip(caption, together[i], strict=True):
            parts = list(state.recurrent)
            for place, mask in masks.items():
                parts[place] = parts[place] * mask[i]
            log_probs, state = decoder.step(
                torch.tensor([word]), replace(state, recurrent=tuple(parts))
            )
            torch.testing.assert_close(log_probs[0].double(), expected, rtol=0, atol=1e-5)
    monkeypatch.undo()
    assert list(decoder._recurrent_masks(state.recurrent)) == hidden


def test_tie_weights_shares_one_tensor():
    tied, free = build(tie_weights=True), build(tie_weights=False)
    assert tied.W_rw.weight is tied.embedding.weight
    assert free.W_rw.weight is not free.embedding.weight


def test_decoder_config_invalid_value_raises():
    with pytest.raises(ConfigError, match="hidden_size is 0"):
        DecoderConfig(hidden_size=0)
    with pytest.raises(ConfigError, match=r"dropout is 1\.0. Use a number from 0 to below 1"):
        DecoderConfig(dropout=1.0)
    with pytest.raises(ConfigError, match="would grow at every step"):
        DecoderConfig(cell="gru", recurrent_dropout=0.1)
    with pytest.raises(ConfigError, match="needs an image"):
        DecoderConfig(injection="none", core="attention")
    with pytest.raises(ConfigError, match="features hold only vectors"):
        build(attention=True).start(Features(images().vector))


def test_features_select_and_move():
    features = images()
    chosen = features.select(torch.tensor([3, 3, 0]))
    assert len(chosen) == 3
    assert torch.equal(chosen.vector, features.vector[[3, 3, 0]])
    assert torch.equal(chosen.grid, features.grid[[3, 3, 0]])
    assert features.to("cpu").vector.dtype == torch.float32
    assert Features(features.vector).select(torch.tensor([1])).grid is None
