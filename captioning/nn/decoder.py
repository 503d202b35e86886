"""The recurrent decoder: from an image and the words so far to the next word."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from captioning.nn.cells import CellState
from captioning.nn.core import DecoderCore
from captioning.nn.features import Features
from captioning.nn.state import DecoderState, ImageContext


@dataclass(frozen=True)
class TaughtWords:
    """What teacher forcing gives for each word of packed captions, in packed order.

    Attributes:
        logits: Of the word after it.
        attention: Where the decoder looked; None without attention.
        reconstruction: What the words up to it let the image vector be; None where the decoder
            does not reconstruct it.
    """

    logits: Float[Tensor, "M V"]
    attention: Float[Tensor, "M P"] | None = None
    reconstruction: Float[Tensor, "M D"] | None = None


class Decoder(DecoderCore):
    """A word embedding, recurrent cells that see the image, and a readout to words.

    At step t, with w the word before, v the image vector and a its grid::

        x      = E[w]                                   (or relu(W_ee E[w] + b_e))
        gates  = W_xh x + W_vh v (+ W_zh z) + b
        h, ... = cell(gates, h, ...)
        r      = W_hr h (+ W_zr z) (+ W_vr v) (+ W_xr x) + b_r
        p      = softmax(W_rw r + b_w)

    z is the context vector of :class:`SoftAttention`, computed from the hidden state before; each
    bracketed term is there where the configuration asks for it, W_xr x with ``deep_output`` (after
    Xu et al. 2015, equation 7; here and in the r of the kinds below). With several ``layers``, each
    cell above the first reads the hidden state below it in place of x, and h is that of the last;
    with ``factored``, W_vh v is a term of the last one's gates and not of the first's. With the
    injection ``merge``, r passes a tanh.

    With ``multimodal`` (Mao et al. 2014) r is ``g(W_hr h + W_vr v + W_xr x + b_r)``, where g(y) is
    1.7159 tanh(2y/3).

    With ``reconstruct`` (Chen & Zitnick 2015) there is a second state, and r sees it too::

        u, ... = memory(W_xu x + b_u, u, ...)
        v~     = W_uv u + b_v
        r      = W_hr h + W_ur u + b_r

    With ``top_down`` (Anderson et al. 2018, section 3.2) the cell above is the first of two, and it
    reads the last state h2 of the second in place of z::

        gates   = W_xh x + W_vh v + W_sh h2 + b
        h1, ... = cell(gates, h1, ...)
        z       = attention with h1
        h2, ... = second([z, h1], h2, ...)
        r       = W_hr h2 + b_r

    :meth:`teach` (teacher forcing) and :meth:`step` (search) share everything from the gates on, so
    they cannot drift apart.
    """

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
        table = self._word_shares(self.dropout(self.embedding(words)))
        shares = nn.functional.embedding(place, table)
        hidden, contexts, memories, merged, looks = [], [], [], [], []
        kept = self._recurrent_masks(state)
        for step_shares in shares.split(tokens.batch_sizes.tolist()):
            count = len(step_shares)  # captions that have ended fall off the end of the batch
            state = tuple(part[:count] for part in state)
            context = context.first(count)
            for place, mask in kept.items():
                state = (*state[:place], state[place] * mask[:count], *state[place + 1 :])
            state, z, alpha = self._advance(step_shares, state, context)
            context = self._after(context)
            hidden.append(state[0])
            if z is not None:
                contexts.append(z)
            if alpha is not None:
                looks.append(alpha)
            if self.config.reconstruct:
                memories.append(self._memory(state))
            if context.merged is not None:
                merged.append(context.merged)
        u = torch.cat(memories) if memories else None
        logits = self._readout(
            shares,
            torch.cat(hidden),
            torch.cat(contexts) if contexts else None,
            u,
            torch.cat(merged) if merged else None,
        )
        return TaughtWords(
            logits,
            torch.cat(looks) if looks else None,
            None if u is None else self.W_uv(self.dropout(u)),
        )

    def _recurrent_masks(self, state: CellState) -> dict[int, Float[Tensor, "N H"]]:
        """Return for each hidden state, by its place, what a caption keeps of it at every step."""
        if not (self.training and self.config.recurrent_dropout):
            return {}
        places = range(0, len(state), self.cell.state_count)
        return {place: self.recurrent_dropout(torch.ones_like(state[place])) for place in places}

    def _memory(self, state: CellState) -> Float[Tensor, "N H"]:
        return state[-self.cell.state_count]

    def _after(self, context: ImageContext) -> ImageContext:
        """Return what the steps after this one need of the images."""
        return replace(context, gates=None) if self.config.injection == "first_word" else context

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
            shares = self._word_shares(self.dropout(self.embedding(tokens)))
        else:
            shares = self._word_table().index_select(0, tokens)
        recurrent, z, alpha = self._advance(shares, state.recurrent, context)
        u = self._memory(recurrent) if self.config.reconstruct else None
        logits = self._readout(shares, recurrent[0], z, u, context.merged)
        log_probs = torch.log_softmax(logits.float(), 1)
        return log_probs, replace(
            state,
            recurrent=tuple(recurrent),
            context=self._after(state.context),
            attention=alpha,
            by_row=self._after(context),
        )
