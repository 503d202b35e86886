"""Stored weights become a model, and no memory is taken before every shape was compared."""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from captioning.checkpoint.json_files import translated
from captioning.checkpoint.weights_file import WeightsFile
from captioning.errors import CheckpointError
from captioning.images.preprocessing import Preprocessing
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderConfig, DecoderSizes
from captioning.nn.encoder import Encoder, EncoderConfig
from captioning.nn.model import CaptionModel


class _CountOnCPU(TorchFunctionMode):
    """On the meta device, the few numbers that a network's builder counts with are real."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.arange, torch.tensor):
            kwargs.setdefault("device", "cpu")
        return func(*args, **kwargs)


def sketch(
    encoder: EncoderConfig,
    decoder: DecoderConfig,
    sizes: DecoderSizes,
    preprocessing: Preprocessing,
    path: Path,
) -> CaptionModel:
    """Return the model on the meta device: all its shapes, and no memory for its numbers.

    Raises:
        CheckpointError: There is no such model; ``path`` is named as what asks for it.
    """

    def build(mode: Any) -> CaptionModel:
        with torch.device("meta"), mode:
            eye = Encoder(replace(encoder, weights=None), preprocessing)
            return CaptionModel(eye, Decoder(decoder, **asdict(sizes)))

    def build_either_way() -> CaptionModel:
        try:
            return build(nullcontext())
        except NotImplementedError:  # torchvision's RegNet computes its widths with tensors
            return build(_CountOnCPU())

    model: CaptionModel = translated(build_either_way, path)
    model.encoder.config = encoder
    return model


def check_shapes(model: CaptionModel, weights: WeightsFile) -> None:
    """Compare every tensor that the settings ask for with the header of the weights.

    Raises:
        CheckpointError: One is missing, too many, or of another shape or kind.
    """
    own = model.state_dict()
    if model.decoder.config.tie_weights:
        del own["decoder.W_rw.weight"]
    path, stored = weights.path, weights.tensors
    for problem, names in (("lacks", set(own) - set(stored)), ("adds", set(stored) - set(own))):
        if names:
            raise CheckpointError(
                f"{path} {problem} {len(names)} tensors, {min(names)[:200]} among them. "
                "The files belong to different models."
            )
    for name, tensor in stored.items():
        wanted = own[name]
        if tensor.shape != wanted.shape:
            raise CheckpointError(
                f"{path}: {name} has the shape {tensor.shape}, the model "
                f"{tuple(wanted.shape)}. The files belong to different models."
            )
        fits = wanted.is_floating_point() and tensor.dtype.is_floating_point
        if not fits and tensor.dtype != wanted.dtype:
            raise CheckpointError(
                f"{path}: {name} is stored as {tensor.dtype}, the model has {wanted.dtype}. "
                "Copy the model again."
            )


def fill(model: CaptionModel, weights: WeightsFile) -> None:
    """Put the weights in the place of the sketch's.

    Raises:
        CheckpointError: Some are not finite, or point to where nothing is.
    """
    network = model.encoder.network
    indices = [
        name
        for name, tensor in network.state_dict().items()
        if not tensor.is_floating_point() and not name.endswith("num_batches_tracked")
    ]
    if indices or _unsaved(network):
        network = model.encoder.network = _real_network(model.encoder, weights.path)
    content = {name: weights.read(name) for name in weights.tensors}
    _check_indices(network, indices, content, weights.path)
    if model.decoder.config.tie_weights:
        content["decoder.W_rw.weight"] = content["decoder.embedding.weight"]
    model.load_state_dict(content, assign=True)
    if model.decoder.config.tie_weights:
        model.decoder.W_rw.weight = model.decoder.embedding.weight
    network.to(memory_format=torch.channels_last)


def _unsaved(network: nn.Module) -> set[str]:
    """Return the names of what a network computes when it is built and never saves."""
    return {name for name, _ in network.named_buffers()} - set(network.state_dict())


def _real_network(encoder: Encoder, path: Path) -> nn.Module:
    """Return the encoder's network with all that is not saved, for images of its usual size."""
    config, size = encoder.config, None
    if config.family == "torchvision" and config.image_size is not None:
        size = min(config.image_size, 512)  # a smaller one may end the network at another map
    plain = replace(config, weights=None, image_size=size)
    network: nn.Module = translated(lambda: Encoder(plain), path).network
    if set(network.state_dict()) != set(encoder.network.state_dict()):
        raise CheckpointError(
            f"{path}: the encoder {config.name} is not the one of these weights. "
            "Copy the model again."
        )
    return network


def _check_indices(
    network: nn.Module, names: Iterable[str], content: dict[str, Tensor], path: Path
) -> None:
    """Refuse places in a table that lie outside it."""
    own = network.state_dict()
    for name in names:
        found, wanted = content[f"encoder.network.{name}"], own[name]
        if wanted.numel() and (found.min() < wanted.min() or found.max() > wanted.max()):
            raise CheckpointError(
                f"{path}: encoder.network.{name} holds numbers outside {wanted.min()} to "
                f"{wanted.max()}. Copy the model again."
            )
