"""Encoder: a CNN trained on ImageNet, from pixels to a grid of vectors and one vector v."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from captioning.errors import ConfigError
from captioning.images.preprocessing import Preprocessing
from captioning.messages import suggest
from captioning.nn.efficientnet_lite import LITE_SHAPES, EfficientNetLite
from captioning.nn.encoder_config import EncoderConfig
from captioning.nn.features import Features
from captioning.nn.pretrained import PACKAGED, build_pretrained, load_file

IMAGENET_CLASSES = 1000


class Encoder(nn.Module):
    """CNN without its classifier.

    The grid is the last feature map, row by row. v is the mean over its positions, which is the
    input of the classifier in nearly every CNN. The network stays in evaluation mode, even in
    fine-tuning: BatchNorm keeps ImageNet's statistics, because a batch of captioned images is too
    small to estimate better ones.

    Args:
        config: Network and source of its weights.
        preprocessing: Conversion of images to pixels; None for that of the pretraining.

    Raises:
        ConfigError: The network does not exist or has no grid.
        WeightsError: The weights are not available.
    """

    def __init__(self, config: EncoderConfig, preprocessing: Preprocessing | None = None) -> None:
        super().__init__()
        self.config = config
        classifier: object = None
        if config.name in PACKAGED:
            self.network, self.preprocessing, classifier = _lite_network(config)
        elif config.family == "timm":
            self.network, self.preprocessing, classifier = _timm_network(config)
        else:
            self.network, self.preprocessing = _torchvision_network(config)
        self._classifier = (classifier,)  # a tuple, so that its weights are not saved
        self.preprocessing = preprocessing or self.preprocessing
        self.ignored_weights: tuple[str, ...] = ()
        """Names in a file of weights that the network does not have."""
        if config.weights_file:
            self.ignored_weights = load_file(self.network, config.weights_file)
        self.network.to(memory_format=torch.channels_last)
        self.eval()
        self.positions, self.feature_size = self._grid_shape()
        """P, number of grid positions; D, size of v and of each grid position."""

    @property
    def classifier(self) -> nn.Linear | None:
        """The pretrained classifier of v into the 1,000 classes of ImageNet.

        None: the weights are not those of a pretraining on these classes, or torchvision's.
        """
        (classifier,) = self._classifier
        pretrained = self.config.weights in ("default", "hub", "package")
        if not pretrained or not isinstance(classifier, nn.Linear):
            return None
        return classifier if classifier.out_features == IMAGENET_CLASSES else None

    def train(self, mode: bool = True) -> "Encoder":
        """Set the mode, but keep the network in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, pixels: UInt8[Tensor, "B 3 S S"]) -> Features:
        """Encode a batch of images that :attr:`preprocessing` prepared."""
        normal = self.preprocessing.normalize(pixels).to(memory_format=torch.channels_last)
        grid = self._grid(normal)
        return Features(grid.mean(1), grid)

    def _grid_shape(self) -> tuple[int, int]:
        size = self.preprocessing.size
        if isinstance(self.network, EfficientNetLite):
            return self.network.count_positions(size), self.network.num_features
        with torch.inference_mode():
            grid = self.forward(torch.zeros(1, 3, size, size, dtype=torch.uint8)).grid
        assert grid is not None
        return grid.shape[1], grid.shape[2]

    def _grid(self, normal: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B P D"]:
        if self.config.family == "torchvision":
            return self.network(normal)["grid"].flatten(2).transpose(1, 2)
        output = self.network.forward_features(normal)  # type: ignore[operator]
        width = self.network.num_features
        if output.ndim == 4 and output.shape[1] == width:
            return output.flatten(2).transpose(1, 2)
        if output.ndim == 4:  # channels last, as in Swin
            return output.flatten(1, 2)
        return output[:, getattr(self.network, "num_prefix_tokens", 0) :]


def _check_model(config: EncoderConfig, known: Iterable[str]) -> None:
    names = list(known)
    if config.model not in names:
        raise ConfigError(
            f"{config.family} has no classification model {config.model!r}."
            f"{suggest(config.model, names)}"
        )


def _lite_network(config: EncoderConfig) -> tuple[nn.Module, Preprocessing, object]:
    shape = LITE_SHAPES[config.model]

    def build(pretrained: bool) -> nn.Module:
        network = EfficientNetLite(shape)
        if pretrained:
            import timm

            network.load_state_dict(timm.create_model(config.model, pretrained=True).state_dict())
        return network

    network = build_pretrained(config.name, config.weights, build)
    classifier = network.get_submodule("classifier")
    del network.classifier
    preprocessing = Preprocessing(
        size=config.image_size or shape.image_size,
        mean=(127 / 255,) * 3,  # TensorFlow's (x - 127) / 128
        std=(128 / 255,) * 3,
        interpolation="bicubic",
        fit=config.fit,
    )
    return network, preprocessing, classifier


def _timm_network(config: EncoderConfig) -> tuple[nn.Module, Preprocessing, object]:
    import timm
    from timm.data.config import resolve_model_data_config

    name, _, tag = config.model.partition(".")
    _check_model(config, [config.model] if tag and timm.is_model(name) else timm.list_models())

    def build(pretrained: bool) -> nn.Module:
        # Not num_classes=0: files of weights contain the classifier.
        return timm.create_model(config.model, pretrained=pretrained)

    network = build_pretrained(config.name, config.weights, build)
    classifier: object = network.get_classifier()  # type: ignore[operator]
    network.reset_classifier(0)  # type: ignore[operator]
    settings: dict[str, Any] = resolve_model_data_config(network)
    preprocessing = Preprocessing(
        size=config.image_size or settings["input_size"][-1],
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        interpolation="bicubic" if settings["interpolation"] == "bicubic" else "bilinear",
        fit=config.fit,
    )
    return network, preprocessing, classifier


def _torchvision_network(config: EncoderConfig) -> tuple[nn.Module, Preprocessing]:
    import torchvision.models as zoo
    from torchvision.models.feature_extraction import create_feature_extractor

    _check_model(config, zoo.list_models(module=zoo))
    best = zoo.get_model_weights(config.model).DEFAULT

    def build(pretrained: bool) -> nn.Module:
        if pretrained:
            return zoo.get_model(config.model, weights=best)
        # Without weights, torchvision would omit the input transform of their pretraining, and
        # draw initial weights slowly (truncated normal by SciPy).
        inception = config.model in ("googlenet", "inception_v3")
        options = {"init_weights": False, "transform_input": True} if inception else {}
        return zoo.get_model(config.model, **options)

    network = build_pretrained(config.name, config.weights, build).eval()
    transforms = best.transforms()
    preprocessing = Preprocessing(
        size=config.image_size or transforms.crop_size[0],
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        interpolation=transforms.interpolation.value,
        fit=config.fit,
    )
    node = _last_map(network, config, preprocessing.size)
    extractor = create_feature_extractor(network, {node: "grid"}, suppress_diff_warning=True)
    return extractor, preprocessing


def _last_map(network: nn.Module, config: EncoderConfig, size: int) -> str:
    """Return the name of the last node with a feature map before the classifier."""
    from torchvision.models import VisionTransformer
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    if isinstance(network, VisionTransformer):
        raise ConfigError(
            f"{config.name} is a transformer without a feature map. "
            "Use a CNN, for example torchvision:resnet50, or the same network from timm."
        )
    in_training, in_use = get_graph_node_names(network, suppress_diff_warning=True)
    names = [
        name
        for name in in_use
        if name in set(in_training) and name != "x" and not name.startswith("classifier")
    ]
    probe = create_feature_extractor(network, names, suppress_diff_warning=True)
    with torch.inference_mode():
        outputs = probe.eval()(torch.zeros(1, 3, size, size))
    maps = [
        name
        for name in names
        if isinstance(outputs[name], Tensor)
        and outputs[name].ndim == 4
        and min(outputs[name].shape[2:]) > 1
    ]
    return maps[-1]
