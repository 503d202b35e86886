"""Weighted averages of models."""

import copy
from dataclasses import asdict, replace

import pytest
import torch
from small_captioner import small_checkpoint

from captioning.errors import ConfigError
from captioning.nn.decoder import Decoder
from captioning.nn.model import CaptionModel
from captioning.nn.weight_average import average_weights, extend_like


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


@pytest.fixture
def larger(models):
    """A model with the weights of ``models[1]``, two more words, and concepts."""
    decoder = models[1].decoder
    config = replace(decoder.config, concepts=2)
    sizes = replace(
        decoder.sizes, vocabulary_size=decoder.sizes.vocabulary_size + 2, concepts=3, classes=4
    )
    extended = Decoder(config, **asdict(sizes))
    with torch.no_grad():
        for weight in extended.parameters():
            weight.normal_()
        extended.concepts.b_c.fill_(1.0)
    return CaptionModel(models[1].encoder, extended)


def test_extend_like_keeps_the_behavior_for_old_words(models, larger):
    model = models[0]
    extended = extend_like(model, larger)
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    words = model.decoder.sizes.vocabulary_size
    tokens = torch.tensor([1, 4])

    def logits(of):
        of.eval()
        return of.decoder.step(tokens, of.start(pixels))[0]

    with torch.no_grad():
        torch.testing.assert_close(logits(extended)[:, :words], logits(model))
    assert torch.equal(extended.decoder.W_rw.weight[words:], larger.decoder.W_rw.weight[words:])
    assert torch.equal(extended.decoder.concepts.b_c, larger.decoder.concepts.b_c)
    average_weights([extended, larger], [0.5, 0.5])


def test_extend_like_other_shapes_raises(models, larger):
    config = replace(models[0].decoder.config, hidden_size=5)
    other = CaptionModel(models[0].encoder, Decoder(config, **asdict(models[0].decoder.sizes)))
    with pytest.raises(ConfigError, match="cannot be extended"):
        extend_like(other, larger)
    with pytest.raises(ConfigError, match="cannot be extended"):
        extend_like(larger, models[0])
