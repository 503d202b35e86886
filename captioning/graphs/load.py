"""Loading of an encoder in OpenVINO, without importing OpenVINO before it is needed."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from captioning.nn.encoder import Encoder

if TYPE_CHECKING:  # imports openvino
    from captioning.graphs.openvino_encoder import OpenVINOEncoder
    from captioning.nn.activation_ranges import ActivationRanges


class UnsupportedEncoderError(Exception):
    """OpenVINO cannot run an encoder."""


def has_openvino() -> bool:
    """Return whether OpenVINO is installed."""
    return find_spec("openvino") is not None


def load_openvino_encoder(
    encoder: Encoder, precision: str, ranges: "ActivationRanges | None" = None
) -> "OpenVINOEncoder":
    """Return an encoder in OpenVINO. Arguments as for the class.

    Raises:
        UnsupportedEncoderError: OpenVINO cannot run it.
    """
    try:
        from captioning.graphs.openvino_encoder import OpenVINOEncoder

        return OpenVINOEncoder(encoder, precision, ranges)
    except Exception as error:  # OpenVINO raises many kinds, also if it is not installed correctly
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UnsupportedEncoderError(
            f"OpenVINO cannot run the encoder {encoder.config.name} ({reason:.200})."
        ) from error
