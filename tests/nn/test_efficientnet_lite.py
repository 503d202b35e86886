"""EfficientNet-Lite against the same networks of timm."""

import pytest
import timm
import torch

from captioning.nn.efficientnet_lite import LITE_SHAPES, EfficientNetLite


@pytest.fixture(scope="module", params=LITE_SHAPES)
def networks(request):
    """The network of timm with random weights and statistics, and this package's with the same."""
    torch.manual_seed(0)
    theirs = timm.create_model(request.param).eval()
    weights = theirs.state_dict()
    for name, weight in weights.items():
        if name.endswith("running_var"):
            weight.uniform_(0.5, 2.0)
        elif weight.is_floating_point():
            weight.add_(torch.randn_like(weight), alpha=0.05)
    ours = EfficientNetLite(LITE_SHAPES[request.param]).eval()
    assert list(ours.state_dict()) == list(weights), "load_by_order needs the same order"
    ours.load_state_dict(weights)
    return theirs, ours


@pytest.mark.parametrize("size", [64, 75, 96])
def test_efficientnet_lite_equals_timm(networks, size):
    theirs, ours = networks
    images = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        assert theirs(images).std() > 1e-3
        torch.testing.assert_close(ours(images), theirs(images))
        grid = ours.forward_features(images)
        torch.testing.assert_close(grid, theirs.forward_features(images))
    assert grid.shape[1:].numel() == ours.count_positions(size) * ours.num_features


def test_efficientnet_lite_image_size_equals_timm(networks):
    theirs, _ = networks
    shape = LITE_SHAPES[theirs.default_cfg["architecture"]]
    assert theirs.default_cfg["input_size"] == (3, shape.image_size, shape.image_size)
