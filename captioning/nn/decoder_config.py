"""What can be chosen about a decoder."""

from dataclasses import dataclass, fields
from typing import Literal, get_args

from captioning.errors import ConfigError
from captioning.nn.cells import CellName

Injection = Literal[
    "recurrent", "first_word", "first_step", "init_state", "merge", "every_input", "none"
]
INJECTIONS: tuple[str, ...] = get_args(Injection)
MOST = 10**9
"""Of numbers in a vector: no product of two such sizes is too large to be computed with."""
MOST_LAYERS = 100


@dataclass(frozen=True)
class DecoderOptions:
    """What can be chosen about a decoder before its vocabulary and encoder are known."""

    cell: CellName = "lstm"
    """The recurrent cell."""
    injection: Injection = "recurrent"
    """Where v enters. ``recurrent``: W_vh v in every step's gates. ``first_word``: the same, in the
    first step's alone (NeuralTalk). ``first_step``: as the input of a step before the first word
    (Show and Tell). ``init_state``: as the first state.
    ``every_input``: beside the word at the input of every step (LRCN). ``merge``: after the
    recurrence, which never sees it (m-RNN). ``none``: nowhere, a language model."""
    layers: int = 1
    """Recurrent cells, one on top of the other; each reads the hidden state of the one below."""
    factored: bool = False
    """v enters the last layer alone; those below it read words and nothing else (LRCN). With the
    injections ``recurrent`` and ``first_word``."""
    multimodal: bool = False
    """The layer where v is merged sees the word too, under a scaled tanh (m-RNN). With ``merge``.
    """
    deep_output: bool = False
    """The readout sees the word just read, beside the hidden state (after Xu et al. 2015, equation
    7)."""
    embedding_layers: int = 1
    """2 puts a second layer between the word vectors and the cell (m-RNN)."""
    reconstruct: bool = False
    """A second recurrent state, which never sees v, learns to reconstruct it from the words read so
    far, and helps to choose the next (Mind's Eye)."""
    attention: bool = False
    """Soft attention over the grid in every step, beside the injection of v."""
    top_down: bool = False
    """Two cells, as in Up-Down (Anderson et al. 2018, section 3.2): the first decides where to
    look, the second says the word. With ``attention``."""
    embedding_size: int = 512
    """E, the size of a word vector."""
    hidden_size: int = 512
    """H, the size of the hidden state."""
    attention_size: int = 512
    """A, the size of a grid position after its projection, and of the space of the energies."""
    dropout: float = 0.3
    """Share of the word vectors', the image's and the readout's numbers dropped in training."""
    recurrent_dropout: float = 0.0
    """Share of the hidden state's numbers that a caption goes without in training, the same ones
    at every step (Gal & Ghahramani 2016)."""
    tie_weights: bool = True
    """Whether the word vectors are the output weights as well (Press & Wolf 2017)."""

    def __post_init__(self) -> None:
        sizes = [entry.name for entry in fields(self) if entry.name.endswith("_size")]
        for name, most in (*((name, MOST) for name in sizes), ("layers", MOST_LAYERS)):
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"{name} is {value}; it is at least 1.")
            if value > most:
                raise ConfigError(f"{name} is {value}; it is at most {most}.")
        if self.embedding_layers not in (1, 2):
            raise ConfigError(f"embedding_layers is {self.embedding_layers}; it is 1 or 2.")
        if self.injection not in INJECTIONS:
            raise ConfigError(
                f"injection is {self.injection!r}; it is one of {', '.join(INJECTIONS)}."
            )
        for name in ("dropout", "recurrent_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it is at least 0 and below 1.")
        self._refuse_what_does_not_fit()

    def _refuse_what_does_not_fit(self) -> None:
        if self.recurrent_dropout and self.cell == "gru":
            raise ConfigError(
                "recurrent_dropout and a GRU do not go together: a GRU hands its hidden state on, "
                "and what is kept of it would grow at every step. Choose another cell, or dropout "
                "alone."
            )
        if self.attention and self.injection == "none":
            raise ConfigError(
                "A decoder without injection sees no image, so it has nothing to attend to. "
                "Choose an injection or leave attention out."
            )
        if self.top_down and not self.attention:
            raise ConfigError(
                "top_down says with which of two cells attention is steered, and this decoder has "
                "no attention. Ask for attention as well."
            )
        if self.top_down and self.layers > 1:
            raise ConfigError(
                f"top_down is two cells with attention between them, and layers is {self.layers}. "
                "Leave layers at 1, or top_down out."
            )
        if self.factored and (self.layers < 2 or self.attention):
            raise ConfigError(
                f"factored keeps v from all layers but the last, and this decoder has {self.layers}"
                f"{' with attention' if self.attention else ''}. Ask for layers 2 or more, without "
                "attention."
            )
        if self.factored and self.injection not in ("recurrent", "first_word"):
            raise ConfigError(
                f"factored goes with the injections recurrent and first_word, not with "
                f"{self.injection}. v beside the input of the last layer is recurrent: "
                "W [h; v] = W_xh h + W_vh v."
            )
        if self.multimodal and self.injection != "merge":
            raise ConfigError(
                f"multimodal is a way to merge v, and it enters by {self.injection}. Choose the "
                "injection merge."
            )
        if self.deep_output and self.multimodal:
            raise ConfigError(
                "multimodal shows the word to the readout already. Leave deep_output out."
            )
        if self.reconstruct and (self.attention or self.injection == "none"):
            raise ConfigError(
                "reconstruct learns to tell v from words, for a decoder that sees v and no grid: "
                "choose an injection, and leave attention out."
            )

    def sized(self, *, vocabulary_size: int, feature_size: int) -> "DecoderConfig":
        """Return the full shape of the decoder for one vocabulary and one encoder."""
        chosen = {entry.name: getattr(self, entry.name) for entry in fields(DecoderOptions)}
        return DecoderConfig(**chosen, vocabulary_size=vocabulary_size, feature_size=feature_size)


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(DecoderOptions):
    """The full shape of a decoder."""

    vocabulary_size: int
    """V, words with the four specials."""
    feature_size: int
    """D, the size of the image vector v and of each position of the grid."""
