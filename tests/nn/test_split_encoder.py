import pytest
import torch

from captioning.errors import ConfigError
from captioning.nn.encoder import Encoder, EncoderConfig
from captioning.nn.split_encoder import cut


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
def test_front_and_tail_give_what_the_whole_efficientnet_gives(stages):
    whole = encoder("timm:tf_efficientnet_lite0")
    front, tail = cut(whole, stages)
    images = pixels(2)
    with torch.no_grad():
        features = front(images)
        torch.testing.assert_close(tail(features.grid), whole(images).grid, atol=1e-5, rtol=1e-4)
    assert features.grid.shape == (2, front.positions, front.feature_size)


@pytest.mark.parametrize("stages", [1, 4])
def test_front_and_tail_give_what_the_whole_resnet_gives(stages):
    whole = encoder("timm:test_resnet")
    front, tail = cut(whole, stages)
    images = pixels(3)
    with torch.no_grad():
        grid = tail(front(images).grid)
        torch.testing.assert_close(grid, whole(images).grid, atol=1e-5, rtol=1e-4)


def test_parts_share_the_weights_of_the_whole_and_leave_none_out():
    whole = encoder("timm:tf_efficientnet_lite0")
    front, tail = cut(whole, 2)
    ours = {id(p) for part in (front, tail) for p in part.parameters()}
    assert ours == {id(p) for p in whole.parameters()}
    with torch.no_grad():
        next(tail.parameters()).add_(1.0)
    images = pixels(1)
    with torch.no_grad():
        grid = tail(front(images).grid)
        torch.testing.assert_close(grid, whole(images).grid, atol=1e-5, rtol=1e-4)


def test_batch_norm_statistics_stay_while_the_tail_is_trained():
    front, tail = cut(encoder("timm:test_resnet"), 2)
    tail.train()
    before = {name: buffer.clone() for name, buffer in tail.named_buffers()}
    tail(front(pixels(2)).grid).sum().backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in tail.named_buffers())
    assert all(p.grad is not None for p in tail.parameters())


@pytest.mark.parametrize("stages", [5, -1])
def test_number_of_stages_that_the_network_has_not_is_said(stages):
    with pytest.raises(ConfigError, match="has 4 stages"):
        cut(encoder("timm:test_resnet"), stages)


@pytest.mark.parametrize("name", ["timm:test_vit", "timm:hrnet_w18_small"])
def test_network_that_is_no_chain_is_refused(name):
    size = 160 if name == "timm:test_vit" else 64
    with pytest.raises(ConfigError, match=r"is no chain of modules|has 0 stages"):
        cut(encoder(name, size), 1)


def test_only_networks_of_timm_can_be_cut():
    with pytest.raises(ConfigError, match="timm has most networks of torchvision"):
        cut(encoder("torchvision:squeezenet1_1"), 1)
