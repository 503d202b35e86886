"""The recurrent decoder: from an image and the words so far to the next word."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from captioning.errors import SettingsError
from captioning.nn.attention import SoftAttention
from captioning.nn.cells import CellName, CellState, build_cell
from captioning.nn.dropout import Dropout
from captioning.nn.features import Features

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
    embedding_size: int = 512
    """E, the size of a word vector."""
    hidden_size: int = 512
    """H, the size of the hidden state."""
    attention_size: int = 512
    """A, the size of a grid position after its projection, and of the space of the energies."""
    dropout: float = 0.5
    """Share of the word vectors', the image's and the readout's numbers dropped in training."""
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
        if not 0 <= self.dropout < 1:
            raise SettingsError(f"dropout is {self.dropout}; it is at least 0 and below 1.")
        if self.attention and self.injection == "none":
            raise SettingsError(
                "A decoder without injection sees no image, so it has nothing to attend to. "
                "Choose an injection or leave attention out."
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


@dataclass(frozen=True)
class ImageContext:
    """All that the steps need of the images, computed once per image.

    Attributes:
        gates: The image's share of every step's gates, ``W_vh v``.
        merged: The image's share of every step's readout.
        grid: The projected positions, to be averaged by attention.
        keys: The positions in the space of the attention energies.
    """

    gates: Float[Tensor, "B G"] | None = None
    merged: Float[Tensor, "B E"] | None = None
    grid: Float[Tensor, "B P A"] | None = None
    keys: Float[Tensor, "B P K"] | None = None

    def select(self, rows: Int[Tensor, " N"]) -> "ImageContext":
        """Return the context of each row's image."""
        return ImageContext(
            *(
                None if part is None else part.index_select(0, rows)
                for part in (self.gates, self.merged, self.grid, self.keys)
            )
        )

    def first(self, count: int) -> "ImageContext":
        """Return the context of the first ``count`` images, without a copy."""
        return ImageContext(
            *(
                None if part is None else part[:count]
                for part in (self.gates, self.merged, self.grid, self.keys)
            )
        )


@dataclass(frozen=True)
class DecoderState:
    """Where each row under search stands: its recurrent state, and which image it is about.

    Attributes:
        recurrent: The cell's state.
        context: What is known of each image.
        image: For each row, the place of its image in ``context``.
        attention: Where each row looked in the last step, ``(N, P)``; None without attention.
        by_row: ``context`` copied out for each row, where a step has done so for these images.
    """

    recurrent: CellState
    context: ImageContext
    image: Int[Tensor, " N"]
    attention: Float[Tensor, "N P"] | None = None
    by_row: ImageContext | None = None

    def __len__(self) -> int:
        return len(self.image)

    @property
    def device(self) -> torch.device:
        """Where the rows are, and so where search runs."""
        return self.image.device

    def select(self, rows: Int[Tensor, " M"]) -> "DecoderState":
        """Return the state of ``rows``, which may repeat some and leave others out."""
        attention = None if self.attention is None else self.attention.index_select(0, rows)
        image = self.image.index_select(0, rows)
        # Beam search mostly moves rows within their image: what was copied out for each stays.
        by_row = self.by_row if torch.equal(image, self.image) else None
        return replace(
            self,
            recurrent=tuple(part.index_select(0, rows) for part in self.recurrent),
            image=image,
            attention=attention,
            by_row=by_row,
        )


class Decoder(nn.Module):
    """A word embedding, a recurrent cell that sees the image, and a readout to words.

    At step t, with w the word before, v the image vector and a its grid::

        gates  = W_xh E[w] + W_vh v (+ W_zh z) + b
        h, ... = cell(gates, h, ...)
        r      = W_hr h (+ W_zr z) (+ W_vr v) + b_r
        p      = softmax(W_rw r + b_w)

    z is the context vector of :class:`SoftAttention`, computed from the hidden state before; each
    bracketed term is there where the configuration asks for it. :meth:`forward` (teacher forcing)
    and :meth:`step` (search) share everything from the gates on, so they cannot drift apart.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        E, H, D, A = (
            config.embedding_size,
            config.hidden_size,
            config.feature_size,
            config.attention_size,
        )
        at_input = config.injection == "every_input"
        self.embedding = nn.Embedding(config.vocabulary_size, E)
        nn.init.normal_(self.embedding.weight, std=E**-0.5)
        self.cell = build_cell(
            config.cell,
            2 * E if at_input else E,
            H,
            D if config.injection == "recurrent" else None,
        )
        self.W_vx = nn.Linear(D, E) if at_input or config.injection == "first_step" else None
        states = self.cell.state_count
        self.W_v0 = nn.Linear(D, states * H) if config.injection == "init_state" else None
        self.W_vr = nn.Linear(D, E, bias=False) if config.injection == "merge" else None
        if config.attention:
            self.W_a = nn.Linear(D, A)
            self.attend = SoftAttention(A, H, A)
            self.W_zh = nn.Linear(A, self.cell.gate_count * H, bias=False)
            self.W_zr = nn.Linear(A, E, bias=False)
        self.W_hr = nn.Linear(H, E)
        self.W_rw = nn.Linear(E, config.vocabulary_size)
        nn.init.zeros_(self.W_rw.bias)
        if config.tie_weights:
            self.W_rw.weight = self.embedding.weight
        else:
            nn.init.normal_(self.W_rw.weight, std=0.1 * E**-0.5)
        self.dropout = Dropout(config.dropout)
        self._table: tuple[list[Any], Tensor] | None = None

    # --- once per image -----------------------------------------------------------------------

    def look(self, features: Features) -> tuple[CellState, ImageContext]:
        """Return each image's first recurrent state and all that later steps need of it."""
        config = self.config
        state = self.cell.initial_state(len(features))
        if config.injection == "none":
            return state, ImageContext()
        # One mask for v and for every position: dropping numbers of single positions costs a
        # random number for each, and the others would give away what is missing.
        mask = self.dropout(torch.ones_like(features.vector))
        v = features.vector * mask
        context = ImageContext()
        if config.injection == "recurrent":
            context = replace(context, gates=self.cell.project_image(v))
        elif self.W_v0 is not None:
            state = torch.tanh(self.W_v0(v)).chunk(self.cell.state_count, 1)
        elif self.W_vr is not None:
            context = replace(context, merged=self.W_vr(v))
        elif self.W_vx is not None and config.injection == "first_step":
            state = self.cell.step(self.cell.project_input(self.W_vx(v)), state)
        elif self.W_vx is not None:
            image_columns = self.cell.W_xh[:, config.embedding_size :]
            context = replace(context, gates=nn.functional.linear(self.W_vx(v), image_columns))
        if config.attention:
            if features.grid is None:
                raise SettingsError(
                    "This decoder attends to the grid, but the features hold vectors only. "
                    "Cache the features again with the grid kept."
                )
            grid = torch.relu(self.W_a(features.grid * mask.unsqueeze(1)))
            context = replace(context, grid=grid, keys=self.attend.keys(grid))
        return state, context

    # --- what every step does -----------------------------------------------------------------

    def _word_gates(self, embedded: Float[Tensor, "*rows E"]) -> Float[Tensor, "*rows G"]:
        """Return ``W_xh E[w] + b``: the word's share of the gates."""
        word_columns = self.cell.W_xh[:, : self.config.embedding_size]
        return nn.functional.linear(embedded, word_columns, self.cell.b)

    @torch.no_grad()
    def _word_table(self) -> Float[Tensor, "V G"]:
        """Return the gates' share of every word, computed again only when a weight has changed."""
        weights = (self.embedding.weight, self.cell.W_xh, self.cell.b)
        state: list[Any] = [(w.data_ptr(), w._version, w.device, w.dtype) for w in weights]
        state.append(torch.is_autocast_enabled(self.embedding.weight.device.type))
        if self._table is None or self._table[0] != state:
            self._table = (state, self._word_gates(self.embedding.weight))
        return self._table[1]

    def _advance(
        self, word_gates: Float[Tensor, "N G"], state: CellState, context: ImageContext
    ) -> tuple[CellState, Float[Tensor, "N A"] | None, Float[Tensor, "N P"] | None]:
        """Go one step on; return the state, and with attention its context and weights."""
        gates = word_gates if context.gates is None else word_gates + context.gates
        z = alpha = None
        if context.grid is not None and context.keys is not None:
            z, alpha = self.attend(context.grid, context.keys, state[0])
            gates = gates + self.W_zh(z)
        return self.cell.step(gates, state), z, alpha

    def _readout(
        self,
        h: Float[Tensor, "M H"],
        z: Float[Tensor, "M A"] | None,
        merged: Float[Tensor, "M E"] | None,
    ) -> Float[Tensor, "M V"]:
        """Return the logits of the next word."""
        r = self.W_hr(self.dropout(h))
        if z is not None:
            r = r + self.W_zr(self.dropout(z))
        if merged is not None:
            r = torch.tanh(r + merged)
        return self.W_rw(self.dropout(r))

    # --- teacher forcing ----------------------------------------------------------------------

    def forward(
        self,
        features: Features,
        tokens: PackedSequence,
        image: Int[Tensor, " N"] | None = None,
    ) -> Float[Tensor, "M V"]:
        """Return the logits of the word after each given word.

        The input projections are one matrix product and the readout is another, both over the real
        words alone: a packed sequence holds no padding.

        Args:
            features: One image per caption, or fewer where ``image`` tells which.
            tokens: The captions from ``<bos>`` on, without their last word, packed
                (:func:`torch.nn.utils.rnn.pack_sequence`).
            image: For each caption, before packing, the place of its image in ``features``. Several
                captions of one image then share all that is computed once per image.

        Returns:
            One row of logits per packed token, in packed order.
        """
        state, context = self.look(features)
        rows = torch.arange(len(features), device=features.vector.device)
        rows = rows if image is None else image
        rows = rows if tokens.sorted_indices is None else rows[tokens.sorted_indices]
        state = tuple(part.index_select(0, rows) for part in state)
        context = context.select(rows)
        # A batch repeats its words: each is projected once. Dropout then drops the same numbers of
        # a word wherever the batch has it (after Gal & Ghahramani 2016, section 4.2).
        words, place = tokens.data.unique(return_inverse=True)
        table = self._word_gates(self.dropout(self.embedding(words)))
        word_gates = nn.functional.embedding(place, table)
        hidden, contexts, merged = [], [], []
        sizes = tokens.batch_sizes.tolist()
        for inputs in word_gates.split(sizes):
            count = len(inputs)  # captions that have ended fall off the end of the sorted batch
            state = tuple(part[:count] for part in state)
            context = context.first(count)
            state, z, _ = self._advance(inputs, state, context)
            hidden.append(state[0])
            if z is not None:
                contexts.append(z)
            if context.merged is not None:
                merged.append(context.merged)
        return self._readout(
            torch.cat(hidden),
            torch.cat(contexts) if contexts else None,
            torch.cat(merged) if merged else None,
        )

    # --- stepping, for search -----------------------------------------------------------------

    def start(self, features: Features) -> DecoderState:
        """Return the state of one row per image, before the first word."""
        state, context = self.look(features)
        rows = torch.arange(len(features), device=features.vector.device)
        return DecoderState(tuple(state), context, rows)

    def step(
        self, tokens: Int[Tensor, " N"], state: DecoderState
    ) -> tuple[Float[Tensor, "N V"], DecoderState]:
        """Read one word per row and return the log-probabilities of the next, and the new state."""
        context = state.by_row or state.context.select(state.image)
        if self.training or torch.is_grad_enabled():
            word_gates = self._word_gates(self.dropout(self.embedding(tokens)))
        else:
            word_gates = self._word_table().index_select(0, tokens)
        recurrent, z, alpha = self._advance(word_gates, state.recurrent, context)
        logits = self._readout(recurrent[0], z, context.merged)
        log_probs = torch.log_softmax(logits.float(), 1)
        return log_probs, replace(
            state, recurrent=tuple(recurrent), attention=alpha, by_row=context
        )
