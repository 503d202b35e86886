"""Networks: encoder, recurrent cells, attention, decoder, and the caption model."""

from captioning.nn.attention import SoftAttention
from captioning.nn.cells import (
    CELLS,
    GRUCell,
    LSTMCell,
    RecurrentCell,
    ReLURNNCell,
    RNNCell,
    build_cell,
)
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.encoder import Encoder, EncoderConfig
from captioning.nn.features import Features
from captioning.nn.model import CaptionModel
from captioning.nn.presets import PRESETS, preset
from captioning.nn.state import DecoderState

__all__ = [
    "CELLS",
    "PRESETS",
    "CaptionModel",
    "Decoder",
    "DecoderConfig",
    "DecoderState",
    "Encoder",
    "EncoderConfig",
    "Features",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "ReLURNNCell",
    "RecurrentCell",
    "SoftAttention",
    "build_cell",
    "preset",
]
