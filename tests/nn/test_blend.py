"""A model between two."""

import copy

import pytest
import torch
from small_captioner import small_checkpoint

from captioning.errors import SettingsError
from captioning.nn.blend import blended
from captioning.nn.decoder import Decoder
from captioning.nn.model import CaptionModel


@pytest.fixture
def models():
    first = small_checkpoint().model
    second = copy.deepcopy(first)
    with torch.no_grad():
        for weight in second.parameters():
            weight.add_(torch.randn_like(weight))
    return first, second


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_each_weight_lies_between_its_two_ends(models, share):
    first, second = models
    before = copy.deepcopy(first.state_dict())
    model = blended(first, second, share)
    for name, weight in model.state_dict().items():
        a, b = first.state_dict()[name], second.state_dict()[name]
        expected = (1 - share) * a + share * b if a.is_floating_point() else a
        torch.testing.assert_close(weight, expected)
        assert torch.equal(a, before[name])  # neither end is changed
    assert model.decoder.W_rw.weight is model.decoder.embedding.weight


def test_other_shapes_and_shares_outside_are_refused(models):
    first, second = models
    with pytest.raises(SettingsError, match=r"share is 1\.5"):
        blended(first, second, 1.5)
    shape = copy.copy(first.decoder.config)
    object.__setattr__(shape, "hidden_size", 5)
    other = CaptionModel(second.encoder, Decoder(shape))
    with pytest.raises(SettingsError, match="other shapes"):
        blended(first, other, 0.5)
