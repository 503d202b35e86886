"""Decoder: states, the word table, dropout, and errors."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_decoder import (
    CAPTIONS,
    CORES,
    EOS,
    H,
    P,
    build_decoder,
    change_vector,
    pack,
    random_features,
    split_by_caption,
    step_caption,
    teach_captions,
)

from captioning.decoding import BeamSearch, Sampling
from captioning.decoding.constraints import TokenConstraints
from captioning.decoding.search import search
from captioning.errors import ConfigError
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.features import Features

# --- state ----------------------------------------------------------------------------------------


def test_image_projection_runs_once_per_image(monkeypatch):
    decoder, features = build_decoder().eval(), random_features()
    calls = []
    project = decoder.core.cell.project_image
    monkeypatch.setattr(
        decoder.core.cell, "project_image", lambda v: calls.append(len(v)) or project(v)
    )
    decoder(features, pack(CAPTIONS))
    assert calls == [4]
    decoder(features.select(torch.arange(2)), pack(CAPTIONS), torch.tensor([0, 0, 1, 1]))
    assert calls == [4, 2]
    search(decoder.step, decoder.start(features), BeamSearch(), TokenConstraints(1, EOS))
    assert calls == [4, 2, 4]


def test_state_select_can_repeat_and_drop_rows():
    decoder, features = build_decoder("lstm, recurrent, attention").eval(), random_features()
    _, state = decoder.step(torch.tensor([1, 3, 4, 5]), decoder.start(features))
    rows = torch.tensor([2, 0, 2])
    tokens = torch.tensor([6, 7, 8])
    selected = state.select(rows, rows)
    assert (len(state), len(selected)) == (4, 3)
    log_probs, after = decoder.step(tokens, selected)
    for n, row in enumerate(rows):
        expected, expected_after = decoder.step(
            tokens[n : n + 1], state.select(row.view(1), row.view(1))
        )
        torch.testing.assert_close(log_probs[n : n + 1], expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(after.attention[n : n + 1], expected_after.attention)
    assert state.attention.shape == (4, P)
    torch.testing.assert_close(state.attention.sum(1), torch.ones(4).double())


@pytest.fixture
def padded():
    """Float32 features of the images of CAPTIONS with 1 to 4 regions, padded to 4 with zeros."""
    counts = torch.tensor([2, 4, 1, 3])
    grid = random_features().grid.float() * (torch.arange(P) < counts.unsqueeze(1)).unsqueeze(2)
    return Features.from_grid(grid, counts)


def cut(features, image):
    """Return the features of one image, without padding."""
    real = ~features.padding[image]
    grid = features.grid[image : image + 1, real]
    return Features(grid.mean(1), grid)


@pytest.mark.parametrize("core", ["attention", "top_down"])
def test_padding_does_not_change_log_probs(padded, core):
    decoder = build_decoder(f"lstm, recurrent, {core}").float().eval()
    with torch.no_grad():
        together = teach_captions(decoder, padded, CAPTIONS)
        stepped = step_caption(decoder, padded, CAPTIONS[0])
        for image, caption in enumerate(CAPTIONS):
            (alone,) = teach_captions(decoder, cut(padded, image), [caption])
            torch.testing.assert_close(together[image], alone, rtol=0, atol=2e-6)
            (alone,) = step_caption(decoder, cut(padded, image), CAPTIONS[0])
            torch.testing.assert_close(stepped[image], alone, rtol=0, atol=2e-6)


def test_padding_is_kept_by_selected_images(padded):
    """Images that are done leave a search."""
    decoder = build_decoder("lstm, recurrent, attention").float().eval()
    images, tokens = torch.tensor([2, 0]), torch.tensor([4, 5])
    with torch.no_grad():
        log_probs, _ = decoder.step(tokens, decoder.start(padded).select(images, images))
        for row, image in enumerate(images):
            alone = decoder.start(cut(padded, image))
            expected, _ = decoder.step(tokens[row : row + 1], alone)
            torch.testing.assert_close(log_probs[row : row + 1], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("method", [BeamSearch(width=3), Sampling(n=2)], ids=["beam", "sampling"])
def test_padding_does_not_change_captions(padded, method):
    decoder = build_decoder("lstm, recurrent, attention").float().eval()

    def find(features, keys):
        constraints = TokenConstraints(1, EOS)
        state = decoder.start(features)
        random = torch.Generator().manual_seed(5)
        return search(decoder.step, state, method, constraints, generator=random, keys=keys)

    with torch.no_grad():
        together = find(padded, torch.arange(4))
        for image in range(4):
            (alone,) = find(cut(padded, image), torch.tensor([image]))
            assert [h.tokens for h in together[image]] == [h.tokens for h in alone]
            found, expected = ([h.log_prob for h in each] for each in (together[image], alone))
            assert found == pytest.approx(expected, abs=1e-5)


def test_step_does_not_change_its_input_state():
    decoder = build_decoder("lstm, recurrent, attention").eval()
    state = decoder.start(random_features())
    before = [part.clone() for part in state.recurrent]
    first, second = (decoder.step(torch.tensor([1, 1, 1, 1]), state)[0] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(before, state.recurrent, strict=True))
    assert torch.equal(first, second)


@pytest.mark.parametrize("core", CORES)
def test_teach_returns_attention_of_each_word(core):
    decoder = build_decoder(f"lstm, recurrent, {core}").eval()
    features = random_features()
    taught = decoder.teacher_forcing(features, pack(CAPTIONS))
    if core == "stack":
        assert taught.attention is None
        return
    rows = split_by_caption(taught.attention, CAPTIONS)
    for i, caption in enumerate(CAPTIONS):
        state = decoder.start(features.select(torch.tensor([i])))
        for word, attention in zip(caption, rows[i], strict=True):
            _, state = decoder.step(torch.tensor([word]), state)
            torch.testing.assert_close(state.attention[0], attention, rtol=0, atol=1e-6)


def test_memory_core_memory_ignores_image():
    decoder, features = build_decoder("minds-eye").eval(), random_features()
    first = decoder.teacher_forcing(features, pack(CAPTIONS)).reconstruction
    other = decoder.teacher_forcing(change_vector(features), pack(CAPTIONS)).reconstruction
    assert torch.equal(first, other)
    captions = [[1, 4, 5, 6, 8], *CAPTIONS[1:]]
    other = decoder.teacher_forcing(features, pack(captions)).reconstruction
    a, b = (split_by_caption(values, CAPTIONS)[0] for values in (first, other))
    assert torch.equal(a[:4], b[:4])
    assert not torch.equal(a[4], b[4])


def test_factored_stack_first_layer_ignores_image():
    decoder, features = build_decoder("lrcn").eval(), random_features(1)
    states = []
    for image in (features, change_vector(features)):
        state = decoder.start(image)
        for word in CAPTIONS[0]:
            _, state = decoder.step(torch.tensor([word]), state)
        states.append(state.recurrent)
    (h2, _, h1, c1), (other_h2, _, other_h1, other_c1) = states
    assert torch.equal(h1, other_h1)
    assert torch.equal(c1, other_c1)
    assert not torch.equal(h2, other_h2)


# --- words and weights ----------------------------------------------------------------------------


@torch.no_grad()
def assert_word_table_is_current(decoder, features):
    expected = torch.stack(teach_captions(decoder, features, [[1, 4]] * 4))
    stepped = step_caption(decoder, features, [1, 4]).double()
    torch.testing.assert_close(stepped, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", ["m-rnn", "minds-eye", "lstm, recurrent, stack"])
def test_word_table_follows_every_weight(variant):
    decoder, features = build_decoder(variant).eval(), random_features()
    assert_word_table_is_current(decoder, features)
    for weight in decoder.parameters():
        with torch.no_grad():
            weight.add_(0.3)
        assert_word_table_is_current(decoder, features)


@pytest.mark.parametrize("fused", [True, False])
def test_word_table_follows_optimizer_steps(fused):
    decoder, features = build_decoder().eval(), random_features()
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=0.1, fused=fused)
    for _ in range(2):
        assert_word_table_is_current(decoder, features)
        decoder.train()
        torch.cat(teach_captions(decoder, features, [[1, 4]] * 4)).sum().backward()
        optimizer.step()
        decoder.eval()
    assert_word_table_is_current(decoder, features)


def test_embedding_unused_words_get_no_gradient():
    decoder = build_decoder(tie_weights=False)
    logits = decoder(random_features(), pack(CAPTIONS))
    assert len(logits) == sum(len(caption) for caption in CAPTIONS)  # no padding
    logits.square().sum().backward()
    used = {token for caption in CAPTIONS for token in caption}
    gradient = decoder.embedding.weight.grad.abs().sum(1)
    assert set(gradient.nonzero().flatten().tolist()) == used


@pytest.mark.parametrize("tied", [True, False])
def test_tie_weights_shares_one_tensor(tied):
    decoder = build_decoder(tie_weights=tied)
    assert (decoder.W_rw.weight is decoder.embedding.weight) == tied


# --- dropout --------------------------------------------------------------------------------------


def test_dropout_applies_only_in_training():
    decoder, features = build_decoder(dropout=0.5), random_features()
    for train in (True, False):
        a, b = (decoder.train(train)(features, pack(CAPTIONS)) for _ in range(2))
        assert torch.equal(a, b) is not train


def test_recurrent_dropout_uses_one_mask_for_all_steps():
    """With W_hh = I the cell copies its state, so a dropped value stays zero."""
    decoder = build_decoder("relu_rnn, init_state, stack", recurrent_dropout=0.5, hidden_size=400)
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.zero_()
        decoder.core.cell.W_hh.copy_(torch.eye(400))
        decoder.injection.W_v0.bias.fill_(1.0)
    inputs = []
    decoder.readout.W_hr.register_forward_hook(lambda _, args, output: inputs.append(args[0]))
    decoder.train()
    torch.manual_seed(0)
    decoder(random_features(1), pack([[1, 4, 5, 6]]))
    hidden = inputs.pop() / np.tanh(1)
    kept = hidden[0] > 0
    assert 120 < int(kept.sum()) < 280
    for t, row in enumerate(hidden, 1):
        assert torch.equal(row > 0, kept)
        torch.testing.assert_close(row[kept], torch.full_like(row[kept], 2.0**t))
    decoder.eval()(random_features(1), pack([[1, 4, 5, 6]]))
    torch.testing.assert_close(inputs.pop() / np.tanh(1), torch.ones(4, 400).double())


@pytest.mark.parametrize("core", ["stack", "top_down"])
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_recurrent_dropout_masks_only_hidden_states(cell, core, monkeypatch):
    """Compare with steps whose hidden states are masked before each step."""
    decoder = build_decoder(f"{cell}, recurrent, {core}", recurrent_dropout=0.5).train()
    features, width = random_features(), decoder.core.cell.state_count
    # The state is (h, c) or, with two cells, (h2, c2, h1, c1).
    hidden = [0] if core == "stack" else [0, width]
    torch.manual_seed(5)
    masks = {index: 2.0 * (torch.rand(len(CAPTIONS), H) > 0.5).double() for index in hidden}
    order = pack(CAPTIONS).sorted_indices
    sorted_masks = {index: mask[order] for index, mask in masks.items()}
    monkeypatch.setattr(decoder, "_recurrent_masks", lambda state: sorted_masks)
    taught = teach_captions(decoder, features, CAPTIONS)
    for i, caption in enumerate(CAPTIONS):
        state = decoder.start(features.select(torch.tensor([i])))
        for word, expected in zip(caption, taught[i], strict=True):
            parts = list(state.recurrent)
            for index, mask in masks.items():
                parts[index] = parts[index] * mask[i]
            masked = replace(state, recurrent=tuple(parts))
            log_probs, state = decoder.step(torch.tensor([word]), masked)
            torch.testing.assert_close(log_probs[0].double(), expected, rtol=0, atol=1e-5)
    monkeypatch.undo()
    assert list(decoder._recurrent_masks(state.recurrent)) == hidden


# --- config and features --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": 0}, "layers is 0"),
        ({"layers": 10**9}, "layers is 1000000000; it must be at least 1 and at most 100."),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"hidden_size": 10**30}, "hidden_size is 1000.*at most 1000000000"),
        ({"embedding_layers": 3}, "embedding_layers is 3"),
        ({"dropout": 1.0}, r"dropout is 1\.0; it must be at least 0 and below 1"),
        ({"cell": "gru", "recurrent_dropout": 0.1}, "would grow at every step"),
        ({"factored": True}, "layers is 1 "),
        ({"factored": True, "layers": 2, "core": "attention"}, "no attention"),
        ({"factored": True, "layers": 2, "injection": "every_input"}, "injection is every_input"),
        ({"factored": True, "layers": 2, "injection": "none"}, "injection is none"),
        ({"readout": "multimodal"}, "injection is recurrent"),
        ({"core": "attention", "injection": "none"}, "needs an image"),
        ({"core": "memory", "injection": "none"}, "needs an image"),
        ({"core": "top_down", "layers": 2}, "layers is 2"),
    ],
)
def test_decoder_config_invalid_field_raises(fields, message):
    with pytest.raises(ConfigError, match=message):
        DecoderConfig(**fields)


def test_attention_features_without_grid_raise():
    decoder = build_decoder("lstm, recurrent, attention")
    with pytest.raises(ConfigError, match="features hold only vectors"):
        decoder.start(Features(random_features().vector))


def test_features_select_and_move():
    features = random_features()
    selected = features.select(torch.tensor([3, 3, 0]))
    assert len(selected) == 3
    assert torch.equal(selected.vector, features.vector[[3, 3, 0]])
    assert torch.equal(selected.grid, features.grid[[3, 3, 0]])
    assert features.to("cpu").vector.dtype == torch.float32
    assert Features(features.vector).select(torch.tensor([1])).grid is None


@pytest.mark.parametrize("core", CORES)
def test_state_select_images_keeps_terms_of_their_rows(core):
    decoder, features = build_decoder(f"lstm, recurrent, {core}").eval(), random_features()
    with torch.no_grad():
        _, state = decoder.step(torch.tensor([1, 3, 4, 5]), decoder.start(features))
        state = state.select(torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]))
        rows, images = torch.tensor([7, 6, 3, 3]), torch.tensor([3, 1])
        tokens = torch.tensor([6, 7, 8, 5])
        log_probs, _ = decoder.step(tokens, state.select(rows, images))
        for n, (row, image) in enumerate(zip(rows, (3, 3, 1, 1), strict=True)):
            alone = state.select(row.view(1), torch.tensor([image]))
            expected, _ = decoder.step(tokens[n : n + 1], alone)
            torch.testing.assert_close(log_probs[n : n + 1], expected, rtol=0, atol=1e-6)
