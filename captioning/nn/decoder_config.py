"""Configuration of a decoder. This module does not import torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from captioning.errors import ConfigError
from captioning.messages import check_ranges, suggest

CellName = Literal["rnn", "relu_rnn", "gru", "lstm"]
InjectionName = Literal[
    "recurrent", "first_word", "first_step", "init_state", "merge", "every_input", "none"
]
CoreName = Literal["stack", "attention", "top_down", "memory"]
ReadoutName = Literal["linear", "deep", "multimodal"]
CHOICES = {
    "cell": get_args(CellName),
    "injection": get_args(InjectionName),
    "core": get_args(CoreName),
    "readout": get_args(ReadoutName),
}
SIZES = "[1, 1000000000]"
"""Vector sizes. The product of two such sizes still fits into 64 bits."""


@dataclass(frozen=True)
class DecoderConfig:
    """Configuration of a decoder; vocabulary and encoder determine its other sizes."""

    cell: CellName = "lstm"
    """Recurrent cell."""
    injection: InjectionName = "recurrent"
    """Where the image vector v enters. ``recurrent``: the gates of every step, as W_vh v.
    ``first_word``: the gates of only one step, which predicts the first word (NeuralTalk).
    ``first_step``: an additional step before that one, with v instead of a word as its input (Show
    and Tell). ``init_state``: the initial state. ``merge``: after the recurrence (m-RNN).
    ``every_input``: the input of every step, concatenated with the word. ``none``: nowhere; the
    decoder is a language model."""
    core: CoreName = "stack"
    """Recurrent core. ``stack``: recurrent layers. ``attention``: recurrent layers with soft
    attention over the grid (Show, Attend and Tell). ``top_down``: an attention cell and a language
    cell (Up-Down). ``memory``: recurrent layers, and a memory that reconstructs v from the words
    (Mind's Eye)."""
    layers: int = 1
    """Number of stacked recurrent layers (1 to 100). Each reads the hidden state of the one below.
    """
    factored: bool = False
    """Add v to the gates of the last layer instead of the first (LRCN). Needs 2 or more layers and
    the injection ``recurrent`` or ``first_word``."""
    readout: ReadoutName = "linear"
    """Layer between the hidden state and the words. ``linear``: reads the hidden state.
    ``deep``: also reads the last word (Show, Attend and Tell). With the injection ``merge``, both
    also read v, under a tanh. ``multimodal``: reads hidden state, last word and v, under a scaled
    tanh (m-RNN); needs the injection ``merge``."""
    embedding_layers: int = 1
    """Number of embedding layers (1 or 2). 1: word vectors. 2: word vectors, then a linear layer
    with ReLU (m-RNN)."""
    embedding_size: int = 512
    """E, size of a word vector (1 or more)."""
    hidden_size: int = 512
    """H, size of the hidden state (1 or more)."""
    attention_size: int = 512
    """A, hidden size of the attention layer (1 or more)."""
    dropout: float = 0.3
    """Dropout probability of word vectors, image features and readout inputs (0 to below 1)."""
    recurrent_dropout: float = 0.0
    """Dropout probability of the hidden state, with one mask for all steps of a caption (0 to below
    1; Gal & Ghahramani 2016)."""
    tie_weights: bool = True
    """Use the word vectors as output weights too (Press & Wolf 2017)."""
    concepts: int = 0
    """Number of concepts per image whose word vectors enter the gates and the readout (0: none). A
    concept is a word that a detector recognizes in the image by its CNN features. The detector is
    fitted before the first epoch. With ``init_from``, a model without concepts gets them."""

    def __post_init__(self) -> None:
        check_ranges(self, SIZES, "embedding_size", "hidden_size", "attention_size")
        check_ranges(self, "[1, 100]", "layers")
        check_ranges(self, "[1, 2]", "embedding_layers")
        check_ranges(self, "[0, 1)", "dropout", "recurrent_dropout")
        check_ranges(self, "[0, 1000]", "concepts")
        self._check_choices()
        for problem in self._conflicts():
            raise ConfigError(problem)

    @property
    def uses_image(self) -> bool:
        """Whether the decoder sees the image at all."""
        return self.injection != "none"

    @property
    def image_in_gates(self) -> bool:
        """Whether a recurrent cell adds ``W_vh v`` to its gates."""
        return self.injection in ("recurrent", "first_word")

    @property
    def image_in_input(self) -> bool:
        """Whether the first recurrent cell reads the word and the image."""
        return self.injection == "every_input"

    @property
    def uses_grid(self) -> bool:
        """Whether the decoder attends to the grid of image features."""
        return self.core in ("attention", "top_down")

    def _check_choices(self) -> None:
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ConfigError(
                    f"{name} is {value!r}. Use one of {', '.join(choices)}."
                    f"{suggest(value, choices)}"
                )

    def _conflicts(self) -> Iterator[str]:
        """Yield what is wrong with combinations of fields."""
        if self.cell == "gru" and self.recurrent_dropout:
            # A GRU copies its hidden state, so the scale 1 / (1 - p) would apply at every step.
            yield (
                f"recurrent_dropout is {self.recurrent_dropout} with the cell gru: the scaled "
                "hidden state would grow at every step. Use another cell or recurrent_dropout 0."
            )
        if self.core != "stack" and not self.uses_image:
            yield (
                f"the core {self.core} needs an image, but injection is none. Use another "
                "injection or the core stack."
            )
        if self.concepts and not self.uses_image:
            yield (
                f"concepts is {self.concepts}, but injection is none, so there is no image to find "
                "concepts in. Use another injection or concepts 0."
            )
        if self.core == "top_down" and self.layers > 1:
            yield (
                f"the core top_down always has two cells and cannot be stacked, but layers is "
                f"{self.layers}. Use layers 1 or another core."
            )
        if self.factored and (self.layers < 2 or self.uses_grid):
            yield (
                f"factored needs 2 or more layers and no attention, but layers is {self.layers} "
                f"and core is {self.core}. Use layers 2 and the core stack."
            )
        if self.factored and not self.image_in_gates:
            yield (
                f"factored needs the injection recurrent or first_word, but injection is "
                f"{self.injection}. Use the injection recurrent."
            )
        if self.readout == "multimodal" and self.injection != "merge":
            yield (
                f"the readout multimodal needs the injection merge, but injection is "
                f"{self.injection}. Use merge or another readout."
            )


@dataclass(frozen=True)
class DecoderSizes:
    """Sizes of a decoder that its vocabulary and encoder determine."""

    vocabulary_size: int
    """V, number of words, special tokens included."""
    feature_size: int
    """D, size of the image vector v and of each grid position."""
    concepts: int = 0
    """C, number of words that can be concepts."""
    classes: int = 0
    """K, number of classes of the CNN that stand for concepts."""

    def __post_init__(self) -> None:
        check_ranges(self, SIZES, "vocabulary_size", "feature_size")
        check_ranges(self, "[0, 1000000000]", "concepts", "classes")
