"""The recurrent decoder: from an image and the words so far to the next word."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from captioning.errors import SettingsError
from captioning.nn.attention import SoftAttention
from captioning.nn.cells import CellState, build_cell
from captioning.nn.dropout import Dropout
from captioning.nn.features import Features
from captioning.nn.options import DecoderConfig
from captioning.nn.state import DecoderState, ImageContext


@dataclass(frozen=True)
class TaughtWords:
    """What teacher forcing gives for each word of packed captions, in packed order.

    Attributes:
        logits: Of the word after it.
        attention: Where the decoder looked; None without attention.
    """

    logits: Float[Tensor, "M V"]
    attention: Float[Tensor, "M P"] | None = None


class Decoder(nn.Module):
    """A word embedding, a recurrent cell that sees the image, and a readout to words.

    At step t, with w the word before, v the image vector and a its grid::

        gates  = W_xh E[w] + W_vh v (+ W_zh z) + b
        h, ... = cell(gates, h, ...)
        r      = W_hr h (+ W_zr z) (+ W_vr v) + b_r
        p      = softmax(W_rw r + b_w)

    z is the context vector of :class:`SoftAttention`, computed from the hidden state before; each
    bracketed term is there where the configuration asks for it.

    With ``top_down`` (Anderson et al. 2018, section 3.2) that is the first of two cells, and it
    reads the last state h2 of the second in place of z::

        gates   = W_xh E[w] + W_vh v + W_sh h2 + b
        h1, ... = cell(gates, h1, ...)
        z       = attention with h1
        h2, ... = second([z, h1], h2, ...)
        r       = W_hr h2 + b_r

    :meth:`teach` (teacher forcing) and :meth:`step` (search) share everything from the gates on, so
    they cannot drift apart.
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
        if config.top_down:
            self.second = build_cell(config.cell, A + H, H)
            self.W_sh = nn.Linear(H, self.cell.gate_count * H, bias=False)
        elif config.attention:
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
        self.recurrent_dropout = Dropout(config.recurrent_dropout)
        self._table: tuple[list[Any], Tensor] | None = None

    # --- once per image -----------------------------------------------------------------------

    def look(self, features: Features) -> tuple[CellState, ImageContext]:
        """Return each image's first recurrent state and all that later steps need of it.

        The hidden state that says the word comes first; with ``top_down``, the state of the second
        cell comes before that of the first.
        """
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
        if config.top_down:
            state = (*self.second.initial_state(len(features)), *state)
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
        """Go one step on.

        Returns:
            The state; the context vector, where the readout sees it; the weights of attention.
        """
        gates = word_gates if context.gates is None else word_gates + context.gates
        if context.grid is None or context.keys is None:
            return self.cell.step(gates, state), None, None
        if not self.config.top_down:
            z, alpha = self.attend(context.grid, context.keys, state[0])
            return self.cell.step(gates + self.W_zh(z), state), z, alpha
        count = self.second.state_count
        second, first = state[:count], state[count:]
        first = self.cell.step(gates + self.W_sh(second[0]), first)
        z, alpha = self.attend(context.grid, context.keys, first[0])
        inputs = self.second.project_input(torch.cat([z.to(first[0].dtype), first[0]], 1))
        return (*self.second.step(inputs, second), *first), None, alpha

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
        """Return the logits of :meth:`teach`."""
        return self.teach(features, tokens, image).logits

    def teach(
        self,
        features: Features,
        tokens: PackedSequence,
        image: Int[Tensor, " N"] | None = None,
    ) -> TaughtWords:
        """Read captions, and say of each of their words what would come after it.

        The input projections are one matrix product and the readout is another, both over the real
        words alone: a packed sequence holds no padding.

        Args:
            features: One image per caption, or fewer where ``image`` tells which.
            tokens: The captions from ``<bos>`` on, without their last word, packed
                (:func:`torch.nn.utils.rnn.pack_sequence`).
            image: For each caption, before packing, the place of its image in ``features``. Several
                captions of one image then share all that is computed once per image.
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
        hidden, contexts, merged, looks = [], [], [], []
        kept = self._recurrent_masks(state)
        sizes = tokens.batch_sizes.tolist()
        for inputs in word_gates.split(sizes):
            count = len(inputs)  # captions that have ended fall off the end of the sorted batch
            state = tuple(part[:count] for part in state)
            context = context.first(count)
            for place, mask in kept.items():
                state = (*state[:place], state[place] * mask[:count], *state[place + 1 :])
            state, z, alpha = self._advance(inputs, state, context)
            hidden.append(state[0])
            if z is not None:
                contexts.append(z)
            if alpha is not None:
                looks.append(alpha)
            if context.merged is not None:
                merged.append(context.merged)
        logits = self._readout(
            torch.cat(hidden),
            torch.cat(contexts) if contexts else None,
            torch.cat(merged) if merged else None,
        )
        return TaughtWords(logits, torch.cat(looks) if looks else None)

    def _recurrent_masks(self, state: CellState) -> dict[int, Float[Tensor, "N H"]]:
        """Return for each hidden state, by its place, what a caption keeps of it at every step."""
        if not (self.training and self.config.recurrent_dropout):
            return {}
        places = (0, self.cell.state_count) if self.config.top_down else (0,)
        return {place: self.recurrent_dropout(torch.ones_like(state[place])) for place in places}

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
