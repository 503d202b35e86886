"""Features of cached images, and of captions without an image."""

import itertools
import math

import pytest
import torch

from captioning.evaluation.validation import perplexity
from captioning.features.cache import ArrayRows
from captioning.features.cached_model import CachedModel
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.split_encoder import EncoderTail
from captioning.text.caption_arrays import CaptionArray

IMAGES, POSITIONS, SIZE = 3, 4, 6


class Shift(torch.nn.Module):
    """A stage whose output is not zero for zeros, like those of a CNN."""

    def forward(self, image_map):
        return image_map / 2 + 1


@pytest.fixture
def cache():
    return ArrayRows(torch.randn(IMAGES, 1, POSITIONS, SIZE))


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("tail", [None, EncoderTail([Shift()])])
def test_encode_without_image_gives_zeros(cache, attention, tail):
    options = DecoderConfig(core="attention" if attention else "stack")
    decoder = Decoder(options, vocabulary_size=9, feature_size=SIZE)
    cached_model = CachedModel(decoder, tail)
    features = cached_model.encode(cache, torch.tensor([IMAGES, 2, IMAGES + 5, 0]))
    alone = cached_model.encode(cache, torch.tensor([2, 0]))
    torch.testing.assert_close(features.vector[[1, 3]], alone.vector)
    assert not features.vector[[0, 2]].any()
    assert (features.grid is not None) == attention
    if attention:
        torch.testing.assert_close(features.grid[[1, 3]], alone.grid)
        assert not features.grid[[0, 2]].any()
    nothing = cached_model.encode(cache, torch.tensor([IMAGES]))
    assert not nothing.vector.any()
    decoder.start(nothing)  # accepts the shape of the grid


def test_encode_reads_the_requested_views():
    cache = ArrayRows(torch.randn(IMAGES, 2, POSITIONS, SIZE))
    cached_model = CachedModel(
        Decoder(DecoderConfig(core="attention"), vocabulary_size=9, feature_size=SIZE)
    )
    images, views = torch.tensor([2, 0, 1, 2]), torch.tensor([1, 0, 1, 0])
    grid = cached_model.encode(cache, images, views).grid
    assert torch.equal(grid, cache.features[[2, 0, 1, 2], [1, 0, 1, 0]])
    some = cached_model.encode(cache, torch.tensor([IMAGES, 2, 0]), torch.tensor([0, 1, 0])).grid
    assert torch.equal(some[1:], grid[:2])


def test_encode_padded_batch_keeps_features_and_gradients(cache, monkeypatch):
    scale = torch.nn.Conv2d(SIZE, SIZE, 1)
    cached_model = CachedModel(
        Decoder(DecoderConfig(core="attention"), vocabulary_size=9, feature_size=SIZE),
        EncoderTail([scale]),
    )
    images = torch.tensor([IMAGES, 2, IMAGES + 5, 0, 1])
    counts = []
    scale.register_forward_hook(lambda module, inputs, output: counts.append(len(output)))

    def encode():
        features = cached_model.encode(cache, images)
        cached_model.zero_grad()
        features.grid.square().sum().backward()
        return features.vector, features.grid, scale.weight.grad.clone()

    plain = encode()
    monkeypatch.setattr("captioning.features.cached_model._BATCH_MULTIPLES", {"cpu": 8})
    for found, expected in zip(encode(), plain, strict=True):
        torch.testing.assert_close(found, expected)
    assert counts == [3, 8]


def test_perplexity_equals_that_of_single_words():
    cache = ArrayRows(torch.randn(IMAGES, 1, 1, SIZE))
    cached_model = CachedModel(
        Decoder(DecoderConfig(hidden_size=8), vocabulary_size=9, feature_size=SIZE)
    ).train()
    captions = [[[1, 4, 5, 2], [1, 6, 2]], [], [[1, 7, 7, 7, 2]]]
    found = perplexity(cached_model, cache, CaptionArray.from_lists(captions), batch_size=2)
    assert cached_model.decoder.training
    cached_model.eval()
    losses = []
    with torch.no_grad():
        for place, own in enumerate(captions):
            for caption in own:
                state = cached_model.decoder.start(
                    cached_model.encode(cache, torch.tensor([place]))
                )
                for word, after in itertools.pairwise(caption):
                    log_probs, state = cached_model.decoder.step(torch.tensor([word]), state)
                    losses.append(-log_probs[0, after].item())
    assert found == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)
