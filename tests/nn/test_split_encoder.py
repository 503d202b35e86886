import pytest
import torch

from captioning.errors import ConfigError
from captioning.nn.encoder import Encoder, EncoderConfig
from captioning.nn.split_encoder import split_encoder


def encoder(name, size=64):
    torch.manual_seed(0)
    found = Encoder(EncoderConfig(name, weights=None, image_size=size))
    with torch.no_grad():
        for module in found.modules():  # statistics that would not go unnoticed
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2.0)
    return found


def pixels(count, size=64):
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)


@pytest.mark.parametrize("stages", [1, 2, 7])
def test_split_efficientnet_gives_the_same_grid(stages):
    whole = encoder("timm:tf_efficientnet_lite0")
    front, tail = split_encoder(whole, stages)
    images = pixels(2)
    with torch.no_grad():
        features = front(images)
        torch.testing.assert_close(tail(features.grid), whole(images).grid, atol=1e-5, rtol=1e-4)
    assert features.grid.shape == (2, front.positions, front.feature_size)


@pytest.mark.parametrize("stages", [1, 4])
def test_split_resnet_gives_the_same_grid(stages):
    whole = encoder("timm:test_resnet")
    front, tail = split_encoder(whole, stages)
    images = pixels(3)
    with torch.no_grad():
        grid = tail(front(images).grid)
        torch.testing.assert_close(grid, whole(images).grid, atol=1e-5, rtol=1e-4)


def test_split_parts_share_all_weights():
    whole = encoder("timm:tf_efficientnet_lite0")
    front, tail = split_encoder(whole, 2)
    ours = {id(p) for part in (front, tail) for p in part.parameters()}
    assert ours == {id(p) for p in whole.parameters()}
    with torch.no_grad():
        next(tail.parameters()).add_(1.0)
    images = pixels(1)
    with torch.no_grad():
        grid = tail(front(images).grid)
        torch.testing.assert_close(grid, whole(images).grid, atol=1e-5, rtol=1e-4)


def test_tail_training_keeps_batch_norm_statistics():
    front, tail = split_encoder(encoder("timm:test_resnet"), 2)
    tail.train()
    before = {name: buffer.clone() for name, buffer in tail.named_buffers()}
    tail(front(pixels(2)).grid).sum().backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in tail.named_buffers())
    assert all(p.grad is not None for p in tail.parameters())


@pytest.mark.parametrize("stages", [5, -1])
def test_split_too_many_stages_raises(stages):
    with pytest.raises(ConfigError, match="has 4 stages"):
        split_encoder(encoder("timm:test_resnet"), stages)


@pytest.mark.parametrize("name", ["timm:test_vit", "timm:hrnet_w18_small"])
def test_split_non_sequential_network_raises(name):
    size = 160 if name == "timm:test_vit" else 64
    with pytest.raises(ConfigError, match=r"is not a chain of modules|has 0 stages"):
        split_encoder(encoder(name, size), 1)


def test_split_torchvision_network_raises():
    with pytest.raises(ConfigError, match="only timm networks can be split"):
        split_encoder(encoder("torchvision:squeezenet1_1"), 1)
