"""The parts of a model, and the files of a model directory.

A model directory contains neither pickles nor URLs of files to load:

    config.json               format version, encoder, decoder, training, scores
    model.safetensors         all weights, including the encoder's
    vocabulary.json           words in id order
    preprocessor_config.json  image preprocessing (not with external features)
    generation_config.json    the model's own search
    rerank.safetensors        n-gram reranker (optional)
    int8.safetensors          ranges of the encoder's activations (optional)
    README.md                 model card

All settings are written, defaults included, so that a version of this package with other defaults
loads the same model.
"""

from dataclasses import dataclass, field
from typing import Literal

from captioning.checkpoint.model_info import ModelInfo
from captioning.decoding import SearchMethod
from captioning.errors import ConfigError
from captioning.nn.activation_ranges import ActivationRanges
from captioning.nn.decoder_config import DecoderConfig, DecoderSizes
from captioning.nn.encoder_config import EncoderConfig
from captioning.nn.model import CaptionModel
from captioning.reranking.ngram import NgramReranker
from captioning.short_repr import ShortRepr
from captioning.text.vocabulary import Vocabulary

FORMAT_VERSION = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
VOCABULARY_FILE = "vocabulary.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
GENERATION_FILE = "generation_config.json"
RERANKER_FILE = "rerank.safetensors"
INT8_FILE = "int8.safetensors"
CARD_FILE = "README.md"
MODEL_FILES = frozenset(
    {CONFIG_FILE, WEIGHTS_FILE, VOCABULARY_FILE, PREPROCESSOR_FILE, GENERATION_FILE}
    | {RERANKER_FILE, INT8_FILE, CARD_FILE}
)
TIED_WEIGHT = "decoder.W_rw.weight"
"""Output weights; not stored if they are the word vectors (``tie_weights``)."""


@dataclass(frozen=True, repr=False)
class Checkpoint(ShortRepr):
    """A model and everything that belongs to it.

    Attributes:
        model: Encoder and decoder.
        vocabulary: Words of the decoder.
        search: Search that is used unless the caller gives another.
        info: How the model was trained and what it scored.
        reranker: N-gram reranker, needed by searches with a ``rerank_weight``.
        ranges: Ranges of the encoder's activations, needed by the precision int8.
    """

    model: CaptionModel
    vocabulary: Vocabulary
    search: SearchMethod
    info: ModelInfo = field(default_factory=ModelInfo)
    reranker: NgramReranker | None = None
    ranges: ActivationRanges | None = None


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Content of ``config.json``."""

    format: Literal["captioning"] = "captioning"
    format_version: int = FORMAT_VERSION
    encoder: EncoderConfig
    decoder: DecoderConfig
    sizes: DecoderSizes
    info: ModelInfo

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            newer = self.format_version > FORMAT_VERSION
            advice = " Update captioning." if newer else ""
            raise ConfigError(
                f"format_version is {self.format_version}, but this version of captioning reads "
                f"{FORMAT_VERSION}.{advice}"
            )
