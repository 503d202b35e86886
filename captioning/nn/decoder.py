"""Recurrent decoder: from an image and the words so far to the next word."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from captioning.nn.cells import CellState
from captioning.nn.concepts import Concepts
from captioning.nn.cores import CORES
from captioning.nn.decoder_config import DecoderConfig, DecoderSizes
from captioning.nn.dropout import Dropout
from captioning.nn.features import Features
from captioning.nn.injections import INJECTIONS
from captioning.nn.readouts import READOUTS
from captioning.nn.shared_draws import set_draw_step
from captioning.nn.state import DecoderState, ImageContext, add_image_term
from captioning.nn.step_linear import StepLinear


@dataclass(frozen=True)
class TeacherForcingOutput:
    """Result of teacher forcing: one row for each word of the packed captions.

    Attributes:
        logits: Logits of the next word.
        attention: Attention weights; None without attention.
        reconstruction: Image vector reconstructed from the words so far; None without memory.
    """

    logits: Float[Tensor, "M V"]
    attention: Float[Tensor, "M P"] | None = None
    reconstruction: Float[Tensor, "M D"] | None = None


class Decoder(nn.Module):
    """Word embedding, recurrent core, and readout to words.

    With w the last word and v the image vector, each step computes::

        x           = E[w]                               or relu(W_ee E[w] + b_e)
        h, z, state = core(x, v, state)                  see captioning.nn.cores
        r           = readout(h, z, x, v)                see captioning.nn.readouts
        p           = softmax(W_rw r + b_w)

    h is the hidden state, and z a second output of some cores: with attention, the attended image
    vector. :mod:`captioning.nn.injections` defines where v enters. With concepts, ``W_sh s`` is
    added to the gates, and ``W_sr s`` to r; s is the concept vector of the image
    (:class:`captioning.nn.concepts.Concepts`).

    :meth:`teacher_forcing` and :meth:`step` (search) use the same core and readout, so they
    agree to rounding.

    Args:
        config: Choice of core, injection, readout and sizes.
        vocabulary_size: V, number of words, special tokens included.
        feature_size: D, size of v and of each grid position.
        concepts: C, number of words that can be concepts; 0 if the config has no concepts.
        classes: K, number of classes of the CNN that stand for concepts.

    Raises:
        ConfigError: A size is out of range.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        vocabulary_size: int,
        feature_size: int,
        concepts: int = 0,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        self.sizes = DecoderSizes(vocabulary_size, feature_size, concepts, classes)
        E = config.embedding_size
        self.embedding = nn.Embedding(vocabulary_size, E)
        nn.init.normal_(self.embedding.weight, std=E**-0.5)
        self.W_ee = nn.Linear(E, E) if config.embedding_layers == 2 else None
        self.core = CORES[config.core](config, feature_size)
        self.injection = INJECTIONS[config.injection](feature_size, E, self.core.stack_size)
        self.readout = READOUTS[config.readout](config, self.core.z_size)
        self.W_rw = nn.Linear(E, vocabulary_size)
        nn.init.zeros_(self.W_rw.bias)
        if config.tie_weights:
            self.W_rw.weight = self.embedding.weight
        else:
            nn.init.normal_(self.W_rw.weight, std=0.1 * E**-0.5)
        gate_size = len(self.core.cell.b)
        self.concepts = Concepts(config, self.sizes, gate_size) if config.concepts else None
        self.word_dropout = Dropout(config.dropout, "words")
        self.image_dropout = Dropout(config.dropout, "images")
        self.token_dropout = Dropout(config.dropout, "tokens")
        self.recurrent_dropout = Dropout(config.recurrent_dropout, "captions")
        self._word_table: tuple[list[Any], Tensor] | None = None

    def train(self, mode: bool = True) -> "Decoder":
        """Set training or evaluation mode and discard the cached projections of all words.

        :meth:`_load_word_table` computes them again if the version counter of a weight has changed.
        But torch's fused optimizers change weights and leave these counters unchanged.
        """
        self._word_table = None
        return super().train(mode)

    # --- teacher forcing ----------------------------------------------------------------------

    def forward(
        self,
        features: Features,
        tokens: PackedSequence,
        image: Int[Tensor, " N"] | None = None,
    ) -> Float[Tensor, "M V"]:
        """Return the logits of :meth:`teacher_forcing`."""
        return self.teacher_forcing(features, tokens, image).logits

    def teacher_forcing(
        self,
        features: Features,
        tokens: PackedSequence,
        image: Int[Tensor, " N"] | None = None,
    ) -> TeacherForcingOutput:
        """Read whole captions and predict the word after each of their words.

        Projections of words and the readout are single matrix products over all words of the batch.
        Packed sequences contain no padding.

        Args:
            features: Images.
            tokens: Captions from ``<bos>`` on, without their last token, which is ``<eos>`` unless
                the caption was cut (:func:`torch.nn.utils.rnn.pack_sequence`).
            image: Index in ``features`` of each caption's image, in the order before packing; by
                default each caption has its own image. Captions of the same image share all terms
                that are computed once per image.
        """
        state, context = self._start(features)
        rows = torch.arange(len(features), device=features.vector.device)
        rows = rows if image is None else image
        rows = rows if tokens.sorted_indices is None else rows[tokens.sorted_indices]
        state = tuple(part.index_select(0, rows) for part in state)
        context = self.core.select_rows(context, rows)
        # Each distinct word is projected once, so dropout drops the same values of a word
        # wherever it occurs in the batch (Gal & Ghahramani 2016, section 4.2).
        words, index = tokens.data.unique(return_inverse=True)
        table = self._project_words(self.word_dropout(self.embedding(words)))
        core_words, readout_words = self._split_words(nn.functional.embedding(index, table))
        masks = self._recurrent_masks(state)
        outputs, image_readouts, concepts = [], [], []
        sizes = tokens.batch_sizes.tolist()
        with StepLinear(sizes):  # computes the gradient of each weight over all steps at once
            for step, step_words in enumerate(core_words.split(sizes)):
                set_draw_step(step)  # selects the rows of this process, if there are several
                count = len(step_words)  # rows are sorted by length: the longest captions remain
                state = _apply_masks(tuple(part[:count] for part in state), masks)
                context = context.truncate(count)
                output = self.core.step(step_words, state, context)
                context = self.injection.after_step(context)
                state = output.state
                outputs.append(output)
                image_readouts.append(context.readout)
                concepts.append(context.concepts)
        h = torch.cat([output.state[0] for output in outputs])
        z = _concatenate([output.z for output in outputs])
        r = self.readout(h, z, readout_words, _concatenate(image_readouts))
        logits = self._predict(r, _concatenate(concepts))
        attention = _concatenate([output.attention for output in outputs])
        return TeacherForcingOutput(logits, attention, self.core.reconstruct(z))

    def _recurrent_masks(self, state: CellState) -> dict[int, Float[Tensor, "N H"]]:
        """Return the dropout mask of each hidden state, by its index in the state."""
        if not (self.training and self.config.recurrent_dropout):
            return {}
        hidden = range(0, len(state), self.core.cell.state_count)
        return {index: self.recurrent_dropout(torch.ones_like(state[index])) for index in hidden}

    # --- stepping, for search -----------------------------------------------------------------

    def start(self, features: Features) -> DecoderState:
        """Return the state before the first word, with one row per image."""
        weight = self.embedding.weight
        state, context = self._start(features.to(weight.device, weight.dtype))
        if _is_search():
            context = self.core.prepare_search(context)
        return DecoderState(tuple(state), context)

    def step(
        self, tokens: Int[Tensor, " N"], state: DecoderState
    ) -> tuple[Float[Tensor, "N V"], DecoderState]:
        """Read one word per row; return the log-probabilities of the next word and the new state.

        If gradients are off, the projections of all words are computed once and looked up in a
        table.
        """
        if _is_search() and not self.training:
            projected = self._load_word_table().index_select(0, tokens)
        else:
            projected = self._project_words(self.word_dropout(self.embedding(tokens)))
        core_words, readout_words = self._split_words(projected)
        output = self.core.step(core_words, state.recurrent, state.context)
        r = self.readout(output.state[0], output.z, readout_words, state.context.readout)
        logits = self._predict(r, state.context.concepts)
        dtype = torch.promote_types(logits.dtype, torch.float32)  # 16 bits are too coarse
        log_probs = torch.log_softmax(logits, 1, dtype=dtype)
        return log_probs, DecoderState(
            output.state, self.injection.after_step(state.context), output.attention
        )

    # --- shared by both -----------------------------------------------------------------------

    def _start(self, features: Features) -> tuple[CellState, ImageContext]:
        """Return the initial state and the image terms, one row per image."""
        strengths = self._concept_strengths(features)
        if self.config.uses_image and (self.training or torch.is_grad_enabled()):
            # The same mask for v and all grid positions: separate masks are slow to draw, and a
            # value dropped at one position would still be visible at the others.
            features = features.masked(self.image_dropout(torch.ones_like(features.vector)))
        v = features.vector
        state = self.core.complete_state(self.injection.build_state(v, self.core))
        context = ImageContext(
            gates=self.injection.project_gates(v, self.core),
            readout=self.injection.project_readout(v),
        )
        context = self._add_concepts(context, strengths)
        return state, self.core.add_grid(context, features)

    def _concept_strengths(self, features: Features) -> Float[Tensor, "B C"] | None:
        if self.concepts is None:
            return None
        given = features.concepts
        return self.concepts(features.vector) if given is None else given

    def _add_concepts(
        self, context: ImageContext, strengths: Float[Tensor, "B C"] | None
    ) -> ImageContext:
        """Return the context with the terms of the concept vector s.

        Dropout removes some of the concepts.
        """
        if self.concepts is None or strengths is None:
            return context
        s = self.concepts.embed(self.image_dropout(strengths), self.embedding.weight)
        term = self.concepts.W_sh(s)
        gates = term if context.gates is None else context.gates + term
        return replace(context, gates=gates, concepts=self.concepts.W_sr(s))

    def _project_words(self, embedded: Float[Tensor, "*rows E"]) -> Float[Tensor, "*rows S"]:
        """Return the words' terms for the core, and after them those for the readout.

        The terms are concatenated along the last axis.
        """
        x = embedded if self.W_ee is None else torch.relu(self.W_ee(embedded))
        core_words = self.core.project_word(x)
        if self.readout.W_xr is None:
            return core_words
        return torch.cat([core_words, self.readout.W_xr(x)], -1)

    def _split_words(
        self, projected: Float[Tensor, "M S"]
    ) -> tuple[Float[Tensor, "M W"], Float[Tensor, "M E"] | None]:
        """Split the result of :meth:`_project_words` into the core's and the readout's terms."""
        size = self.core.word_size
        return projected[:, :size], projected[:, size:] if self.readout.reads_word else None

    @torch.no_grad()
    def _load_word_table(self) -> Float[Tensor, "V S"]:
        """Return the projections of all words, from the cache unless a weight has changed."""
        weights = [self.embedding.weight, *self.core.word_weights()]
        for layer in (self.W_ee, self.readout.W_xr):
            weights += [] if layer is None else layer.parameters()
        key: list[Any] = [(w.data_ptr(), w._version, w.device, w.dtype) for w in weights]
        key.append(torch.is_autocast_enabled(self.embedding.weight.device.type))
        if self._word_table is None or self._word_table[0] != key:
            self._word_table = (key, self._project_words(self.embedding.weight))
        return self._word_table[1]

    def _predict(
        self, r: Float[Tensor, "M E"], concepts: Float[Tensor, "B E"] | None
    ) -> Float[Tensor, "M V"]:
        """Return the logits of the next word; ``concepts`` has M rows, or one for each image."""
        return self.W_rw(self.token_dropout(add_image_term(r, concepts)))


def _is_search() -> bool:
    """Return whether the decoder only searches, so that it may use faster equations.

    Gradients and the export of a model need the plain equations.
    """
    return not (torch.is_grad_enabled() or torch.compiler.is_compiling())


def _apply_masks(state: CellState, masks: dict[int, Float[Tensor, "M H"]]) -> CellState:
    if not masks:
        return state
    return tuple(
        part * masks[index][: len(part)] if index in masks else part
        for index, part in enumerate(state)
    )


def _concatenate(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Concatenate the rows of all steps; None if the steps have no such result."""
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None
