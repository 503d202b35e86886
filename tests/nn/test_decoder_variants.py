"""Properties that every variant of the decoder has."""

import math
from dataclasses import replace

import pytest
import torch
from small_decoder import (
    CAPTIONS,
    EOS,
    MULTI_LAYER,
    SINGLE_LAYER,
    VARIANTS,
    D,
    P,
    V,
    build_decoder,
    change_vector,
    pack,
    random_features,
    teach_captions,
)

from captioning.decoding import BeamSearch
from captioning.decoding.constraints import TokenConstraints
from captioning.decoding.search import search
from captioning.nn.decoder import Decoder
from captioning.nn.features import Features
from captioning.nn.presets import PRESETS

each_variant = pytest.mark.parametrize("variant", VARIANTS)
each_multi_layer = pytest.mark.parametrize("variant", MULTI_LAYER)
# The presets, and each cell, core and readout that they lack.
OVERFITTED = [
    *PRESETS,
    *("relu_rnn, init_state, 3 layers", "rnn, first_step, 3 layers", "gru, multimodal"),
    *("lstm, merge, 3 layers", "lstm, memory, deep", "lstm, top_down, tied", "gru, factored"),
]
each_lstm = pytest.mark.parametrize("variant", [n for n in SINGLE_LAYER if n.startswith("lstm")])


@each_variant
@pytest.mark.parametrize("gradients", [False, True])
def test_step_agrees_with_teacher_forcing(variant, gradients):
    decoder, features = build_decoder(variant).eval(), random_features()
    longest = max(map(len, CAPTIONS))
    words = torch.tensor([[*caption, *[4] * (longest - len(caption))] for caption in CAPTIONS])
    with torch.set_grad_enabled(gradients):
        taught = teach_captions(decoder, features, CAPTIONS)
        state, steps = decoder.start(features), []
        for tokens in words.T:
            log_probs, state = decoder.step(tokens, state)
            steps.append(log_probs.double())
    for stepped, expected in zip(torch.stack(steps, 1), taught, strict=True):
        torch.testing.assert_close(stepped[: len(expected)], expected, rtol=0, atol=1e-5)


@each_variant
def test_teach_caption_is_independent_of_batch(variant):
    decoder, features = build_decoder(variant), random_features()
    together = teach_captions(decoder, features, CAPTIONS)
    for i in (0, 2):  # the longest, and a shorter one
        (alone,) = teach_captions(decoder, features.select(torch.tensor([i])), [CAPTIONS[i]])
        torch.testing.assert_close(alone, together[i], rtol=0, atol=1e-6)


@each_variant
def test_teach_captions_can_share_an_image(variant):
    decoder, features = build_decoder(variant), random_features(2)
    image = torch.tensor([1, 0, 1, 1])
    shared = decoder(features, pack(CAPTIONS), image)
    repeated = decoder(features.select(image), pack(CAPTIONS))
    torch.testing.assert_close(shared, repeated, rtol=0, atol=1e-6)


@each_variant
def test_image_changes_words_unless_injection_is_none(variant):
    decoder, features = build_decoder(variant), random_features()
    a, b = (decoder(f, pack(CAPTIONS)).log_softmax(1) for f in (features, change_vector(features)))
    changed = (a - b).abs().amax(1) > 1e-6
    if decoder.config.injection == "none":
        assert torch.equal(a, b)
    else:  # a rectifier can be zero for some words
        assert changed.any() if decoder.config.cell == "relu_rnn" else changed.all()


@each_variant
def test_grid_changes_words_only_with_attention(variant):
    decoder, features = build_decoder(variant), random_features()
    other = Features(features.vector, features.grid + 1)
    a, b = (decoder(given, pack(CAPTIONS)) for given in (features, other))
    assert torch.equal(a, b) is not decoder.config.uses_grid


@each_variant
def test_decoder_gradients_match_finite_differences(variant):
    """Central difference along a random direction of the image and all weights."""
    decoder, features = build_decoder(variant), random_features(2)
    inputs = [features.vector, features.grid, *decoder.parameters()]
    direction = [torch.randn_like(values.requires_grad_()) for values in inputs]

    def loss():
        taught = decoder.teacher_forcing(features, pack(CAPTIONS[1:3]))
        outputs = (taught.logits, taught.reconstruction)
        return sum(output.sin().sum() for output in outputs if output is not None)

    gradients = torch.autograd.grad(loss(), inputs, materialize_grads=True)
    slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
    losses = []
    with torch.no_grad():
        for step in (1e-6, -2e-6):
            for values, change in zip(inputs, direction, strict=True):
                values.add_(change, alpha=step)
            losses.append(loss())
    expected = (losses[0] - losses[1]) / 2e-6
    torch.testing.assert_close(slope, expected, rtol=1e-5, atol=1e-6)


@each_multi_layer
def test_decoder_initial_loss_is_log_vocabulary_size(variant):
    sizes = {"embedding_size": 64, "hidden_size": 64, "tie_weights": False}
    config = replace(VARIANTS[variant], **sizes)
    decoder = Decoder(config, vocabulary_size=500, feature_size=32).eval()
    features = Features(torch.rand(4, 32), torch.rand(4, P, 32))
    targets = pack([[*caption[1:], EOS] for caption in CAPTIONS]).data
    loss = torch.nn.functional.cross_entropy(decoder(features, pack(CAPTIONS)), targets)
    assert abs(loss.item() - math.log(500)) < 0.3


@pytest.mark.parametrize("variant", OVERFITTED)
def test_decoder_overfits_one_batch(variant):
    sizes = {"embedding_size": 24, "hidden_size": 32, "attention_size": 16, "dropout": 0.0}
    config = replace(VARIANTS[variant], **sizes)
    decoder = Decoder(config, vocabulary_size=V, feature_size=D)
    features = random_features().to("cpu")
    captions = [[1, *range(4, 8)]] * 4 if config.injection == "none" else CAPTIONS
    targets = pack([[*caption[1:], EOS] for caption in captions]).data
    # At the larger rate, rectifiers die after some initial weights and not after others.
    rate, steps = (0.01, 400) if config.cell == "relu_rnn" else (0.03, 90)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=rate)
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(decoder(features, pack(captions)), targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        if loss < 0.05:
            break
    assert loss < 0.1
    results = search(
        decoder.eval().step, decoder.start(features), BeamSearch(), TokenConstraints(1, EOS)
    )
    assert [list(best.tokens) for (best,) in results] == [caption[1:] for caption in captions]


@each_multi_layer
def test_beam_search_wide_beam_equals_enumeration(variant):
    """Compare with all captions of one or two out of three words, scored by teacher forcing."""
    decoder, features = build_decoder(variant).eval(), random_features(1)
    words = (4, 5, 6)
    captions = [(a,) for a in words] + [(a, b) for a in words for b in words]
    inputs = [[1, *caption] for caption in captions]
    with torch.no_grad():
        image = torch.zeros(len(captions), dtype=torch.int64)
        log_probs = teach_captions(decoder, features, inputs, image)
    scores = {
        caption: sum(float(row[t, word]) for t, word in enumerate((*caption, EOS)))
        for caption, row in zip(captions, log_probs, strict=True)
    }
    beam = BeamSearch(width=40, n=12, length_penalty=0.0, max_length=2)
    banned = tuple(word for word in range(V) if word not in (*words, EOS))
    constraints = TokenConstraints(1, EOS, banned)
    (hypotheses,) = search(decoder.step, decoder.start(features), beam, constraints)
    assert [h.tokens for h in hypotheses] == sorted(scores, key=lambda c: -scores[c])


@each_lstm
def test_search_result_is_independent_of_batch(variant):
    decoder, features = build_decoder(variant).eval(), random_features(8)
    beam = BeamSearch(n=3, min_length=5, max_length=8)

    def find_captions(rows):
        state = decoder.start(features.select(torch.tensor(rows)))
        results = search(decoder.step, state, beam, TokenConstraints(1, EOS, banned=(0, 3)))
        return [[hypothesis.tokens for hypothesis in hypotheses] for hypotheses in results]

    together = find_captions(list(range(8)))
    assert together == [find_captions([row])[0] for row in range(8)]
    different = len({captions[0] for captions in together}) > 1
    assert different == (decoder.config.injection != "none")
