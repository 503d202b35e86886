"""Weighted averages of models."""

import copy
from dataclasses import asdict, replace

import pytest
import torch
from small_captioner import small_checkpoint

from captioning.errors import ConfigError
from captioning.nn.decoder import Decoder
from captioning.nn.model import CaptionModel
from captioning.nn.weight_average import average_weights


@pytest.fixture
def models():
    first = small_checkpoint().model
    others = [copy.deepcopy(first) for _ in range(2)]
    with torch.no_grad():
        for other in others:
            for weight in other.parameters():
                weight.add_(torch.randn_like(weight))
    return [first, *others]


@pytest.mark.parametrize("shares", [(1.0, 0.0, 0.0), (0.25, 0.75, 0.0), (0.6, 0.1, 0.3)])
def test_average_weights_returns_weighted_mean(models, shares):
    before = [copy.deepcopy(model.state_dict()) for model in models]
    model = average_weights(models, shares)
    for name, weight in model.state_dict().items():
        a, b, c = (state[name] for state in before)
        expected = shares[0] * a + shares[1] * b + shares[2] * c if a.is_floating_point() else a
        torch.testing.assert_close(weight, expected)
        for source, state in zip(models, before, strict=True):
            assert torch.equal(source.state_dict()[name], state[name])
    assert model.decoder.W_rw.weight is model.decoder.embedding.weight


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.5, 0.5, 0.5), (1.5, -0.5, 0.0)])
def test_average_weights_invalid_shares_raises(models, shares):
    with pytest.raises(ConfigError, match="the shares of 3 models are"):
        average_weights(models, shares)


def test_average_weights_different_shapes_raises(models):
    first, second, _ = models
    config = replace(first.decoder.config, hidden_size=5)
    decoder = Decoder(config, **asdict(second.decoder.sizes))
    other = CaptionModel(second.encoder, decoder)
    with pytest.raises(ConfigError, match="different shapes"):
        average_weights([first, other], [0.5, 0.5])
