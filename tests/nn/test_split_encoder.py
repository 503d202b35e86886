"""Encoder split into a frozen front and a trainable tail."""

import pytest
import torch

from captioning.errors import ConfigError
from captioning.nn.encoder import Encoder
from captioning.nn.encoder_config import EncoderConfig
from captioning.nn.split_encoder import split_encoder


def build_encoder(name, size=64):
    """An encoder whose batch normalization does not have its default statistics."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(name, weights=None, image_size=size))
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2.0)
    return encoder


def random_pixels(count, size=64):
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)


@torch.no_grad()
def assert_same_grid(encoder, front, tail, pixels):
    grid = tail(front(pixels).grid)
    torch.testing.assert_close(grid, encoder(pixels).grid, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        *(("timm:tf_efficientnet_lite0", stages) for stages in (1, 2, 7)),
        *(("timm:test_resnet", stages) for stages in (1, 4)),
    ],
)
def test_split_encoder_gives_the_same_grid(name, stages):
    encoder = build_encoder(name)
    front, tail = split_encoder(encoder, stages)
    pixels = random_pixels(2)
    assert_same_grid(encoder, front, tail, pixels)
    assert front(pixels).grid.shape == (2, front.positions, front.feature_size)


def test_split_encoder_parts_share_all_weights():
    encoder = build_encoder("timm:tf_efficientnet_lite0")
    front, tail = split_encoder(encoder, 2)
    shared = {id(weight) for part in (front, tail) for weight in part.parameters()}
    assert shared == {id(weight) for weight in encoder.parameters()}
    with torch.no_grad():
        next(tail.parameters()).add_(1.0)
    assert_same_grid(encoder, front, tail, random_pixels(1))


def test_tail_training_keeps_batch_norm_statistics():
    front, tail = split_encoder(build_encoder("timm:test_resnet"), 2)
    tail.train()
    before = {name: buffer.clone() for name, buffer in tail.named_buffers()}
    tail(front(random_pixels(2)).grid).sum().backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in tail.named_buffers())
    assert all(p.grad is not None for p in tail.parameters())


@pytest.mark.parametrize("stages", [5, -1])
def test_split_encoder_stages_out_of_range_raises(stages):
    with pytest.raises(ConfigError, match="has 4 stages"):
        split_encoder(build_encoder("timm:test_resnet"), stages)


@pytest.mark.parametrize("name", ["timm:test_vit", "timm:hrnet_w18_small"])
def test_split_encoder_non_sequential_network_raises(name):
    size = 160 if name == "timm:test_vit" else 64
    with pytest.raises(ConfigError, match=r"is not a chain of modules|has 0 stages"):
        split_encoder(build_encoder(name, size), 1)


def test_split_encoder_torchvision_network_raises():
    with pytest.raises(ConfigError, match="only timm networks can be split"):
        split_encoder(build_encoder("torchvision:squeezenet1_1"), 1)
