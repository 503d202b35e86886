"""Backends: the library and the precision that run a model at inference."""

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import UInt8
from torch import Tensor

from captioning.checkpoint import Checkpoint
from captioning.errors import ConfigError
from captioning.graphs.load import UnsupportedEncoderError, has_openvino, load_openvino_encoder
from captioning.inference.backend_config import BackendConfig, ResolvedBackend
from captioning.nn.decoder import Decoder
from captioning.nn.device import has_bfloat16, has_fast_bfloat16
from captioning.nn.external_encoder import ExternalEncoder
from captioning.nn.features import Features
from captioning.nn.state import DecoderState

_CPU_BATCH = 16  # images that torch encodes at once; their feature maps stay in the cache

Encode = Callable[[UInt8[Tensor, "B 3 S S"]], Features]
"""Function from pixels on any device to features on the device of the model."""


@dataclass(frozen=True)
class BackendModel:
    """A model that a backend runs.

    Attributes:
        encode: Returns the features of a batch of pixels.
        decoder: ``start(features) -> state`` and ``step(tokens, state) -> (log_probs, state)``.
    """

    encode: Encode
    decoder: "Decoder | LowPrecisionDecoder"


@dataclass(frozen=True)
class LoadedBackend:
    """The models of an ensemble, ready to run.

    Attributes:
        resolved: The library and the precision.
        models: The models, in the given order.
    """

    resolved: ResolvedBackend
    models: tuple[BackendModel, ...]


def load_backend(config: BackendConfig, checkpoints: Sequence[Checkpoint]) -> LoadedBackend:
    """Prepare models for inference. All of them get the same backend.

    Later changes of the encoder's weights have no effect, except in torch and float32.

    Args:
        config: The backend and the precision, or ``auto``. If OpenVINO does not support an
            encoder, ``auto`` falls back to torch with a warning in the log.
        checkpoints: The models, on one device.

    Raises:
        ConfigError: The backend is not available here or does not support the precision or an
            encoder.
    """
    device = checkpoints[0].model.decoder.embedding.weight.device
    config = fit_backend(config, checkpoints[0])
    has_ranges = all(checkpoint.ranges is not None for checkpoint in checkpoints)
    resolved = resolve_backend(config, device, has_ranges=has_ranges)
    try:
        return _load(resolved, checkpoints)
    except UnsupportedEncoderError as error:
        if config.backend == "openvino":
            raise ConfigError(f"{error} Use the backend torch.") from error
        fallback = BackendConfig("torch", config.precision)
        logging.getLogger(__name__).warning("%s torch is used instead.", str(error))
        return _load(resolve_backend(fallback, device), checkpoints)


def fit_backend(config: BackendConfig, checkpoint: Checkpoint) -> BackendConfig:
    """Return ``torch`` instead of ``auto`` for a model without a CNN: OpenVINO runs only CNNs."""
    external = isinstance(checkpoint.model.encoder, ExternalEncoder)
    return replace(config, backend="torch") if external and config.backend == "auto" else config


def resolve_backend(
    config: BackendConfig, device: torch.device, *, has_ranges: bool = False
) -> ResolvedBackend:
    """Decide what ``auto`` stands for.

    Args:
        config: The backend and the precision.
        device: Device of the model.
        has_ranges: Whether the model has the ranges of activations that int8 needs.

    Raises:
        ConfigError: The backend is not available here or does not support the precision.
    """
    backend, precision = config.backend, config.precision
    on_cpu, installed = device.type == "cpu", has_openvino()
    if backend == "auto":
        backend = "openvino" if on_cpu and installed else "torch"
    elif backend == "openvino" and not on_cpu:
        raise ConfigError(
            f"backend 'openvino' runs on the CPU, but the device is {device}. Use the device cpu, "
            "or the backend torch."
        )
    elif backend == "openvino" and not installed:
        raise ConfigError(
            "backend 'openvino' is not available: OpenVINO is not installed. Use "
            "pip install openvino, or the backend torch."
        )
    if precision == "auto":
        fast = backend == "openvino" and has_fast_bfloat16(device)
        precision = "bfloat16" if fast else "float32"
    if precision == "int8" and backend == "torch":
        raise ConfigError(
            "precision 'int8' needs the backend openvino on a CPU. Use the precision bfloat16."
        )
    if precision == "int8" and not has_ranges:
        raise ConfigError(
            "precision 'int8' needs the ranges of the model's activations, which this model does "
            "not have. Run captioning calibrate MODEL --images PATH, or use the precision "
            "bfloat16."
        )
    return ResolvedBackend(backend, precision)


def _load(resolved: ResolvedBackend, checkpoints: Sequence[Checkpoint]) -> LoadedBackend:
    build = {"torch": _torch_encode, "openvino": _openvino_encode}[resolved.backend]
    return LoadedBackend(
        resolved,
        tuple(
            BackendModel(
                build(checkpoint, resolved), _load_decoder(checkpoint.model.decoder, resolved)
            )
            for checkpoint in checkpoints
        ),
    )


@dataclass(frozen=True)
class LowPrecisionDecoder:
    """A decoder in 16 bits whose results do not depend on the number of rows.

    The product of a matrix with a single row is computed by other instructions than that with
    several rows, and rounds differently. So a single row is computed twice.

    Attributes:
        decoder: The decoder.
    """

    decoder: Decoder

    def start(self, features: Features) -> DecoderState:
        """Return the state before the first word, with one row per image."""
        if len(features) > 1:
            return self.decoder.start(features)
        first = torch.zeros(1, dtype=torch.long, device=features.vector.device)
        return self.decoder.start(features.select(first.expand(2))).select(first, first)

    def step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Read one word per row; return the log-probabilities of the next word and the state."""
        if len(tokens) > 1:
            return self.decoder.step(tokens, state)
        first = torch.zeros(1, dtype=torch.long, device=tokens.device)
        twice = state.select(first.expand(2), first.expand(2))
        log_probs, twice = self.decoder.step(tokens.expand(2), twice)
        return log_probs[:1], twice.select(first, first)


def _load_decoder(decoder: Decoder, resolved: ResolvedBackend) -> "Decoder | LowPrecisionDecoder":
    """Return a copy of the decoder in bfloat16 if that is faster and float32 is not asked for."""
    if resolved.precision == "float32" or not has_fast_bfloat16(decoder.embedding.weight.device):
        return decoder
    return LowPrecisionDecoder(copy.deepcopy(decoder).to(torch.bfloat16).eval())


def _openvino_encode(checkpoint: Checkpoint, resolved: ResolvedBackend) -> Encode:
    encoder = checkpoint.model.encoder
    ranges = checkpoint.ranges if resolved.precision == "int8" else None
    return load_openvino_encoder(encoder, resolved.precision, ranges)


def _torch_encode(checkpoint: Checkpoint, resolved: ResolvedBackend) -> Encode:
    encoder = checkpoint.model.encoder

    def encode(pixels: UInt8[Tensor, "B 3 S S"]) -> Features:
        device = next(encoder.parameters()).device
        # Emulated bfloat16 is many times slower than float32; OpenVINO does not emulate it either.
        rounds = resolved.precision == "bfloat16" and has_bfloat16(device)
        parts = pixels.split(_CPU_BATCH if device.type == "cpu" else len(pixels))
        with torch.autocast(device.type, torch.bfloat16, enabled=rounds):
            found = [encoder(part.to(device)).to(device) for part in parts]
        if len(found) == 1:
            return found[0]
        return Features(torch.cat([x.vector for x in found]), torch.cat([x.grid for x in found]))

    return encode
