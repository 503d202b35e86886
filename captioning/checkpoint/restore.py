"""A model from its configs and stored weights, without memory for shapes that do not match."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from captioning.checkpoint.checkpoint import TIED_WEIGHT
from captioning.checkpoint.weights_file import WeightsFile
from captioning.errors import CheckpointError
from captioning.images.preprocessing import Preprocessing
from captioning.json_data import ADVICE, shorten
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderConfig, DecoderSizes
from captioning.nn.encoder import Encoder
from captioning.nn.encoder_config import EXTERNAL, EncoderConfig
from captioning.nn.external_encoder import ExternalEncoder
from captioning.nn.model import CaptionModel
from captioning.nn.pretrained import PACKAGED

_RANDOM_FILLS = {Tensor.normal_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_}
_DIFFERENT_MODELS = "The files belong to different models."


@contextmanager
def name_file(path: Path) -> Iterator[None]:
    """Turn every error of a block into a CheckpointError that names a file.

    Libraries raise errors of many kinds if a network cannot be built from its settings.
    """
    try:
        yield
    except MemoryError as error:
        raise CheckpointError(f"{path}: not enough memory. Close other programs.") from error
    except Exception as error:
        reason = shorten(error, 600) or type(error).__name__
        if str(path) in reason:
            raise CheckpointError(reason) from error
        raise CheckpointError(f"{path}: {reason.rstrip('.')}. {ADVICE}") from error


class _CountOnCPU(TorchFunctionMode):
    """Create the results of ``arange`` and ``tensor`` on the CPU instead of the meta device.

    Some networks compute the sizes of their layers from such tensors; meta tensors have no values.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.arange, torch.tensor):
            kwargs.setdefault("device", "cpu")
        return func(*args, **kwargs)


class _SkipRandomValues(TorchFunctionMode):
    """Draw no initial values within the meta device, where they have no effect.

    torch implements some of these functions in Python there, and imports its compiler for it.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _RANDOM_FILLS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def build_empty(
    encoder: EncoderConfig,
    decoder: DecoderConfig,
    sizes: DecoderSizes,
    preprocessing: Preprocessing | None,
) -> CaptionModel:
    """Return a model on the meta device: it has shapes, but no memory for values.

    Args:
        encoder: The encoder.
        decoder: The decoder.
        sizes: Sizes of the decoder.
        preprocessing: Preprocessing of the images; None for a model that reads no images.

    Raises:
        Exception: The configs do not describe a network. Libraries raise errors of any kind.
    """
    if encoder.name != EXTERNAL and encoder.name not in PACKAGED:
        import_module(encoder.family)  # torch 2.6 computes with tensors while this is imported

    def build(mode: Any) -> CaptionModel:
        with torch.device("meta"), mode:
            if encoder.name == EXTERNAL:
                empty: Encoder = ExternalEncoder(sizes.feature_size)
            else:
                empty = Encoder(replace(encoder, weights=None), preprocessing)
            return CaptionModel(empty, Decoder(decoder, **asdict(sizes)))

    try:
        model = build(_SkipRandomValues())
    except NotImplementedError:  # RegNet of torchvision computes its widths with tensors
        model = build(_CountOnCPU())
    model.encoder.config = encoder
    return model


def check_tensors(model: CaptionModel, weights: WeightsFile) -> None:
    """Check names, shapes and dtypes of a weights file against a model.

    Raises:
        CheckpointError: A tensor is missing, unknown, or of another shape or dtype.
    """
    own = model.state_dict()
    if model.decoder.config.tie_weights:
        del own[TIED_WEIGHT]
    path, stored = weights.path, weights.tensors
    for problem, names in (
        ("lacks", set(own) - set(stored)),
        ("has unknown", set(stored) - set(own)),
    ):
        if names:
            raise CheckpointError(
                f"{path} {problem} {len(names)} tensors, such as {min(names)[:200]}. "
                f"{_DIFFERENT_MODELS}"
            )
    for name, tensor in stored.items():
        wanted = own[name]
        if tensor.shape != wanted.shape:
            raise CheckpointError(
                f"{path}: {name} has shape {shorten(tensor.shape)}, expected "
                f"{tuple(wanted.shape)}. {_DIFFERENT_MODELS}"
            )
        both_float = wanted.is_floating_point() and tensor.dtype.is_floating_point
        if not both_float and tensor.dtype != wanted.dtype:
            raise CheckpointError(
                f"{path}: {name} has dtype {tensor.dtype}, expected {wanted.dtype}. "
                "Copy the model again."
            )


def restore(model: CaptionModel, weights: WeightsFile) -> None:
    """Give an empty model its weights.

    Args:
        model: Model on the meta device.
        weights: File whose tensors match the model's.

    Raises:
        CheckpointError: Values are not finite, or indices are out of range.
    """
    content = {name: weights.read(name) for name in weights.tensors}
    if not isinstance(model.encoder, ExternalEncoder):
        _complete_network(model.encoder, content, weights.path)
    _check_concepts(model.decoder, content, weights.path)
    if model.decoder.config.tie_weights:
        content[TIED_WEIGHT] = content["decoder.embedding.weight"]
    model.load_state_dict(content, assign=True)
    if model.decoder.config.tie_weights:
        model.decoder.W_rw.weight = model.decoder.embedding.weight
    model.encoder.to(memory_format=torch.channels_last)


def _complete_network(encoder: Encoder, content: dict[str, Tensor], path: Path) -> None:
    """Give a network the values that no file contains, and check its indices.

    Raises:
        CheckpointError: Indices are out of range, or the tensors are not those of the network.
    """
    indices = [
        name
        for name, tensor in encoder.network.state_dict().items()
        if not tensor.is_floating_point() and not name.endswith("num_batches_tracked")
    ]
    if indices or _unsaved_buffers(encoder.network):
        encoder.network = _build_network(encoder, path)
    _check_indices(encoder.network, indices, content, path)


def _check_concepts(decoder: Decoder, content: dict[str, Tensor], path: Path) -> None:
    """Check that concepts are ids of words, and that classes refer to concepts.

    Raises:
        CheckpointError: Indices are out of range.
    """
    if decoder.concepts is None:
        return
    sizes = decoder.sizes
    for name, end in (("words", sizes.vocabulary_size), ("class_words", sizes.concepts + 1)):
        found = content[f"decoder.concepts.{name}"]
        if found.numel() and not 0 <= int(found.min()) <= int(found.max()) < end:
            raise CheckpointError(
                f"{path}: decoder.concepts.{name} has values outside 0 to {end - 1}. Copy the "
                "model again."
            )


def _unsaved_buffers(network: nn.Module) -> set[str]:
    """Return the buffers that a network computes when it is built and does not save."""
    return {name for name, _ in network.named_buffers()} - set(network.state_dict())


def _build_network(encoder: Encoder, path: Path) -> nn.Module:
    """Return the encoder's network with its unsaved buffers, at its usual image size."""
    config, size = encoder.config, None
    if config.family == "torchvision" and config.image_size is not None:
        # The size decides which feature map is selected, but from 512 on it is the same map.
        size = min(config.image_size, 512)
    with name_file(path), torch.random.fork_rng(devices=[]):  # its initial values are random
        network: nn.Module = Encoder(replace(config, weights=None, image_size=size)).network
    if set(network.state_dict()) != set(encoder.network.state_dict()):
        raise CheckpointError(
            f"{path}: the tensors are not those of the encoder {config.name}. Copy the model again."
        )
    return network


def _check_indices(
    network: nn.Module, names: Iterable[str], content: dict[str, Tensor], path: Path
) -> None:
    """Refuse indices into a table that lie outside the range of the network's own."""
    own = network.state_dict()
    for name in names:
        found, wanted = content[f"encoder.network.{name}"], own[name]
        if wanted.numel() and (found.min() < wanted.min() or found.max() > wanted.max()):
            raise CheckpointError(
                f"{path}: encoder.network.{name} has values outside {wanted.min()} to "
                f"{wanted.max()}. Copy the model again."
            )
