"""What a decoder is shown of images that are there and of images that are not."""

import itertools
import math

import pytest
import torch

from captioning.evaluation.validation import perplexity
from captioning.features.cache import FeatureCache
from captioning.features.cached_model import CachedModel
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.split_encoder import EncoderTail

IMAGES, POSITIONS, SIZE = 3, 4, 6


class Brighter(torch.nn.Module):
    """A stage that gives no zeros for zeros, as those of a CNN do not."""

    def forward(self, image_map):
        return image_map / 2 + 1


@pytest.fixture
def cache(tmp_path):
    cache = FeatureCache(tmp_path, (IMAGES, 1, POSITIONS, SIZE))
    cache.append(torch.randn(IMAGES, 1, POSITIONS, SIZE), {})
    return cache


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("tail", [None, EncoderTail([Brighter()])])
def test_captions_without_image_see_zeros_and_the_others_their_own(cache, attention, tail):
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
    decoder.start(nothing)  # its grid has a shape that the decoder takes


def test_each_image_is_looked_at_in_the_view_that_is_asked_for(tmp_path):
    cache = FeatureCache(tmp_path, (IMAGES, 2, POSITIONS, SIZE))
    cache.append(torch.randn(IMAGES, 2, POSITIONS, SIZE), {})
    cached_model = CachedModel(
        Decoder(DecoderConfig(core="attention"), vocabulary_size=9, feature_size=SIZE)
    )
    images, views = torch.tensor([2, 0, 1, 2]), torch.tensor([1, 0, 1, 0])
    grid = cached_model.encode(cache, images, views).grid
    assert torch.equal(grid, torch.from_numpy(cache.rows[[2, 0, 1, 2], [1, 0, 1, 0]]).float())
    some = cached_model.encode(cache, torch.tensor([IMAGES, 2, 0]), torch.tensor([0, 1, 0])).grid
    assert torch.equal(some[1:], grid[:2])


def test_images_repeated_for_a_gpu_change_neither_features_nor_gradients(cache, monkeypatch):
    scale = torch.nn.Conv2d(SIZE, SIZE, 1)
    cached_model = CachedModel(
        Decoder(DecoderConfig(core="attention"), vocabulary_size=9, feature_size=SIZE),
        EncoderTail([scale]),
    )
    images = torch.tensor([IMAGES, 2, IMAGES + 5, 0, 1])
    counts = []
    scale.register_forward_hook(lambda module, inputs, output: counts.append(len(output)))

    def looked():
        features = cached_model.encode(cache, images)
        cached_model.zero_grad()
        features.grid.square().sum().backward()
        return features.vector, features.grid, scale.weight.grad.clone()

    plain = looked()
    monkeypatch.setattr("captioning.features.cached_model._BATCH_MULTIPLES", {"cpu": 8})
    for found, expected in zip(looked(), plain, strict=True):
        torch.testing.assert_close(found, expected)
    assert counts == [3, 8]


def test_perplexity_is_that_of_the_words_one_by_one(tmp_path):
    cache = FeatureCache(tmp_path, (IMAGES, 1, 1, SIZE))
    cache.append(torch.randn(IMAGES, 1, 1, SIZE), {})
    cached_model = CachedModel(
        Decoder(DecoderConfig(hidden_size=8), vocabulary_size=9, feature_size=SIZE)
    ).train()
    captions = [[[1, 4, 5, 2], [1, 6, 2]], [], [[1, 7, 7, 7, 2]]]
    found = perplexity(cached_model, cache, captions, batch_size=2)
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
