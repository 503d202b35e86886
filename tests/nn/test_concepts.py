"""Concepts: their strengths, and how they enter a decoder."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from small_decoder import (
    CAPTIONS,
    build_decoder,
    pack,
    random_features,
    step_caption,
    teach_captions,
)

from captioning.errors import ConfigError
from captioning.nn.concepts import Concepts, concept_words, keep_largest
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderConfig, DecoderSizes
from captioning.nn.extend_vocabulary import extend_vocabulary

WORDS, CLASSES = 5, 4


@torch.no_grad()
def randomize(concepts):
    """Fill detector and classifier with random numbers; classes stand for 0, 1 or 2 words."""
    torch.manual_seed(5)
    for name in ("W_cv", "b_c", "W_kv", "b_k"):
        getattr(concepts, name).normal_()
    concepts.mean.uniform_(0, 0.5)
    concepts.class_mean.uniform_(0, 0.2)
    concepts.words.copy_(torch.tensor([4, 6, 7, 5, 8]))
    concepts.class_words[:] = torch.tensor([[0, 5, 5], [1, 2, 5], [5, 5, 5], [1, 5, 5]])
    for layer in (concepts.W_sh, concepts.W_sr):
        torch.nn.init.normal_(layer.weight)


def with_concepts(decoder, count=3):
    """Return a decoder with random concepts and the other weights of ``decoder``."""
    config = replace(decoder.config, concepts=count)
    sizes = replace(decoder.sizes, concepts=WORDS, classes=CLASSES)
    extended = Decoder(config, **asdict(sizes)).to(decoder.embedding.weight.dtype)
    extended.load_state_dict(decoder.state_dict(), strict=False)
    randomize(extended.concepts)
    return extended.eval()


def test_strengths_equal_numpy():
    concepts = Concepts(DecoderConfig(concepts=2), DecoderSizes(9, 6, WORDS, CLASSES), 8)
    randomize(concepts)
    v = torch.randn(3, 6)
    weights = {name: tensor.numpy() for name, tensor in concepts.named_buffers()}
    detected = expit(v.numpy() @ weights["W_cv"].T + weights["b_c"]) - weights["mean"]
    p = softmax(v.numpy() @ weights["W_kv"].T + weights["b_k"], axis=1)
    zero = np.zeros(3)
    known = np.stack([p[:, 0], p[:, 1] + p[:, 3], p[:, 1], zero, zero], 1)
    known = known - weights["class_mean"]
    expected = np.maximum(np.maximum(detected, known), 0)
    expected[expected < np.sort(expected, 1)[:, -2:-1]] = 0
    np.testing.assert_allclose(concepts(v).numpy(), expected, atol=1e-6)


def test_strengths_are_computed_in_float32_under_autocast():
    concepts = Concepts(DecoderConfig(concepts=5), DecoderSizes(9, 6, WORDS, CLASSES), 8)
    randomize(concepts)
    v = torch.randn(3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(concepts(v), concepts(v.float()), rtol=0, atol=0)
        assert concepts(v).dtype == torch.float32


def test_keep_largest_of_fewer_values_keeps_all():
    values = torch.rand(2, 3)
    torch.testing.assert_close(keep_largest(values, 9), values)


def test_concept_words_are_ordered_and_exclude_zero():
    concepts = Concepts(DecoderConfig(concepts=5), DecoderSizes(9, 6, WORDS, CLASSES), 8)
    randomize(concepts)
    assert concept_words(concepts, torch.tensor([0.0, 0.25, 0.0, 0.5, 0.0])) == [
        (5, 0.5),
        (6, 0.25),
    ]


@pytest.mark.parametrize(
    "variant",
    [
        "lstm, recurrent, stack",
        "gru, merge, stack",
        "lstm, recurrent, attention",
        "lstm, first_word, stack",
        "lstm, init_state, top_down",
        "rnn, factored",
        "lstm, memory, deep",
    ],
)
def test_teacher_forcing_and_steps_agree_with_concepts(variant):
    decoder, features = with_concepts(build_decoder(variant)), random_features()
    expected = teach_captions(decoder, features, CAPTIONS)
    for image, caption in enumerate(CAPTIONS):
        found = step_caption(decoder, features[image : image + 1], caption)[0]
        torch.testing.assert_close(found, expected[image], atol=1e-6, rtol=0)


def test_concepts_change_the_prediction():
    decoder, features = with_concepts(build_decoder()), random_features()
    given = replace(features, concepts=torch.zeros(len(features), WORDS).double())
    before = decoder(given, pack(CAPTIONS))
    given.concepts[:, 2] = 1.0
    assert (decoder(given, pack(CAPTIONS)) - before).abs().max() > 0.1


def test_dropout_of_features_does_not_change_concepts():
    decoder, features = with_concepts(build_decoder()).train(), random_features()
    seen = []
    decoder.concepts.register_forward_hook(lambda module, v, strengths: seen.append(v[0]))
    decoder(features, pack(CAPTIONS))
    torch.testing.assert_close(seen[0], features.vector)


def test_extend_vocabulary_keeps_concepts():
    decoder = with_concepts(build_decoder())
    larger = extend_vocabulary(decoder, decoder.sizes.vocabulary_size + 3, like=3)
    for name, tensor in decoder.concepts.state_dict().items():
        torch.testing.assert_close(
            larger.concepts.state_dict()[name], tensor.float(), check_dtype=False
        )


def test_concepts_without_image_are_refused():
    with pytest.raises(ConfigError, match="there is no image to find concepts in"):
        DecoderConfig(injection="none", concepts=3)
