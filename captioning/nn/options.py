"""What can be chosen about a decoder."""

from dataclasses import dataclass, fields
from typing import Literal

from captioning.errors import SettingsError
from captioning.nn.cells import CellName

Injection = Literal["recurrent", "first_step", "init_state", "merge", "every_input", "none"]
INJECTIONS = ("recurrent", "first_step", "init_state", "merge", "every_input", "none")


@dataclass(frozen=True)
class DecoderOptions:
    """What can be chosen about a decoder before its vocabulary and encoder are known."""

    cell: CellName = "lstm"
    """The recurrent cell."""
    injection: Injection = "recurrent"
    """Where v enters. ``recurrent``: W_vh v in every step's gates. ``first_step``: as the input of
    a step before the first word (Show and Tell). ``init_state``: as the first state.
    ``every_input``: beside the word at the input of every step (LRCN). ``merge``: after the
    recurrence, which never sees it (m-RNN). ``none``: nowhere, a language model."""
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
    dropout: float = 0.5
    """Share of the word vectors', the image's and the readout's numbers dropped in training."""
    recurrent_dropout: float = 0.0
    """Share of the hidden state's numbers that a caption goes without in training, the same ones
    at every step (Gal & Ghahramani 2016)."""
    tie_weights: bool = True
    """Use the word vectors as the output weights as well (Press & Wolf 2017)."""

    def __post_init__(self) -> None:
        sizes = [entry.name for entry in fields(self) if entry.name.endswith("_size")]
        for name in sizes:
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; it is at least 1.")
        if self.injection not in INJECTIONS:
            raise SettingsError(
                f"injection is {self.injection!r}; it is one of {', '.join(INJECTIONS)}."
            )
        for name in ("dropout", "recurrent_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError(
                    f"{name} is {getattr(self, name)}; it is at least 0 and below 1."
                )
        if self.recurrent_dropout and self.cell == "gru":
            raise SettingsError(
                "recurrent_dropout and a GRU do not go together: a GRU hands its hidden state on, "
                "and what is kept of it would grow at every step. Choose another cell, or dropout "
                "alone."
            )
        if self.attention and self.injection == "none":
            raise SettingsError(
                "A decoder without injection sees no image, so it has nothing to attend to. "
                "Choose an injection or leave attention out."
            )
        if self.top_down and not self.attention:
            raise SettingsError(
                "top_down says with which of two cells attention is steered, and this decoder has "
                "no attention. Ask for attention as well."
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
