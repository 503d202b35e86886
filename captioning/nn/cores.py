"""Recurrent cores: the part of a decoder that has a state.

A core reads one word per step. Its state is a flat tuple whose first element is the hidden state h
that the readout sees.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from captioning.errors import ConfigError
from captioning.nn.attention import SoftAttention
from captioning.nn.attention_training import GridRows
from captioning.nn.cells import CellState, RecurrentCell, build_cell
from captioning.nn.decoder_config import CoreName, DecoderConfig
from captioning.nn.dropout import Dropout
from captioning.nn.features import Features
from captioning.nn.state import ImageContext, add_image_term

_Word = Float[Tensor, "N S"]


@dataclass(frozen=True)
class CoreOutput:
    """Result of one step.

    Attributes:
        state: State after the step; h comes first.
        z: Second vector that the readout sees, or None.
        attention: Attention weights of the step, or None.
    """

    state: CellState
    z: Float[Tensor, "N Z"] | None = None
    attention: Float[Tensor, "N P"] | None = None


class StackCore(nn.Module):
    """Stacked recurrent layers.

    With x the word, v the image vector and l = 2 ... L::

        h_1, ... = cell_1(W_xh x + W_vh v + b, h_1, ...)
        h_l, ... = cell_l(W_xh h_{l-1} + b, h_l, ...)
        h        = h_L

    A factored stack adds ``W_vh v`` to the gates of layer L instead of layer 1 (LRCN_2f, Donahue et
    al. 2015, section 4.2). The state lists the layers from the last to the first.

    Args:
        config: Configuration of the decoder.
        feature_size: D, size of v.
    """

    z_size: int | None = None
    """Size of z; None for a core without z."""

    def __init__(self, config: DecoderConfig, feature_size: int) -> None:
        super().__init__()
        E, H = config.embedding_size, config.hidden_size
        self.embedding_size = E
        self.factored = config.factored
        D = feature_size if config.image_in_gates else None
        self.cell = build_cell(
            config.cell, 2 * E if config.image_in_input else E, H, None if config.factored else D
        )
        self.upper = nn.ModuleList(
            build_cell(config.cell, H, H, D if config.factored and layer == config.layers else None)
            for layer in range(2, config.layers + 1)
        )
        self.attention: SoftAttention | None = None
        self.dropout = Dropout(config.dropout, "step")  # between layers

    # --- once per word or image ---------------------------------------------------------------

    @property
    def word_size(self) -> int:
        """S, size of a word's projection."""
        return len(self.cell.b)

    def word_weights(self) -> list[Tensor]:
        """Return the weights on which :meth:`project_word` depends."""
        return [self.cell.W_xh, self.cell.b]

    def project_word(self, x: Float[Tensor, "*rows E"]) -> Float[Tensor, "*rows S"]:
        """Return ``W_xh x + b``, the word's term of the gates."""
        return nn.functional.linear(x, self.cell.W_xh[:, : self.embedding_size], self.cell.b)

    def project_image_input(self, x: Float[Tensor, "B E"]) -> Float[Tensor, "B kH"]:
        """Return the last E columns of ``W_xh`` times x, the image that follows each word."""
        return nn.functional.linear(x, self.cell.W_xh[:, self.embedding_size :])

    def project_image(self, v: Float[Tensor, "B D"]) -> Float[Tensor, "B kH"]:
        """Return ``W_vh v``."""
        cell = self.upper[-1] if self.factored else self.cell
        assert isinstance(cell, RecurrentCell)
        return cell.project_image(v)

    def add_grid(self, context: ImageContext, features: Features) -> ImageContext:
        """Return the context with grid and keys, if the core attends to the grid."""
        if self.attention is None:
            return context
        if features.grid is None:
            raise ConfigError(
                "the decoder attends to the grid, but the features hold only vectors. Extract the "
                "features again with the grid."
            )
        a = self.attention.project_grid(features.grid)
        keys = self.attention.project_keys(a)
        return replace(context, grid=a, keys=keys, padding=features.padding)

    def prepare_search(self, context: ImageContext) -> ImageContext:
        """Return the context in the form for many steps without gradients."""
        if self.attention is None:
            return context
        assert context.keys is not None
        return replace(context, keys=None, exp_keys=self.attention.exponentiate(context.keys))

    def select_rows(self, context: ImageContext, image: Int[Tensor, " N"]) -> ImageContext:
        """Return the image terms of each caption, for teacher forcing."""
        if self.attention is None:
            return context.select(image)
        assert context.grid is not None
        assert context.keys is not None
        rows = GridRows(self.attention, context.grid, context.keys, image, context.padding)
        others = replace(context, grid=None, keys=None, padding=None)
        return replace(others.select(image), grid_rows=rows)

    @property
    def stack_size(self) -> int:
        """Number of values in the state of the stack."""
        return (1 + len(self.upper)) * self.cell.state_count * self.cell.hidden_size

    def initial_stack_state(self, rows: int) -> CellState:
        """Return the all-zero state of the stack."""
        return self.cell.initial_state(rows) * (1 + len(self.upper))

    def complete_state(self, stack_state: CellState) -> CellState:
        """Return the initial state of all cells, given that of the stack."""
        return stack_state

    # --- every step ---------------------------------------------------------------------------

    def step(self, word_gates: _Word, state: CellState, context: ImageContext) -> CoreOutput:
        """Read one word.

        Args:
            word_gates: Result of :meth:`project_word`.
            state: State after the last step.
            context: Image terms of each image.
        """
        return CoreOutput(self.step_stack(word_gates, state, context.gates))

    def step_stack(
        self,
        gates: Float[Tensor, "N kH"],
        state: CellState,
        image_gates: Float[Tensor, "B kH"] | None = None,
    ) -> CellState:
        """Return the state of the stack after one step of every layer.

        Args:
            gates: Gates of the first layer without the image term.
            state: State of the stack.
            image_gates: ``W_vh v``.
        """
        count = self.cell.state_count
        if not self.factored:
            gates = add_image_term(gates, image_gates)
        new = self.cell.step(gates, state[-count:])
        for layer, cell in enumerate(self.upper, 1):
            assert isinstance(cell, RecurrentCell)
            gates = cell.project_input(self.dropout(new[0]))
            if self.factored and layer == len(self.upper):
                gates = add_image_term(gates, image_gates)
            end = len(state) - layer * count
            new = (*cell.step(gates, state[end - count : end]), *new)
        return new

    def attend(
        self, context: ImageContext, h: Float[Tensor, "N H"]
    ) -> tuple[Float[Tensor, "N A"], Float[Tensor, "N P"]]:
        """Return z and alpha of the attention, in the form that the context has."""
        assert self.attention is not None
        if context.grid_rows is not None:
            return context.grid_rows.attend(h)
        assert context.grid is not None
        if context.exp_keys is not None:
            return self.attention.search(context.grid, context.exp_keys, h, context.padding)
        assert context.keys is not None
        return self.attention(context.grid, context.keys, h, context.padding)

    def reconstruct(self, z: Float[Tensor, "M Z"] | None) -> Float[Tensor, "M D"] | None:
        """Return the image vectors reconstructed from z; None for a core without memory."""
        return None


class AttentionCore(StackCore):
    """Recurrent layers with soft attention (Xu et al. 2015, section 3.1.2, equations 1-3).

    z is the context vector of :class:`SoftAttention` for the last hidden state::

        z        = attention(h)
        h_1, ... = cell_1(W_xh x + W_vh v + W_zh z + b, h_1, ...)
    """

    def __init__(self, config: DecoderConfig, feature_size: int) -> None:
        super().__init__(config, feature_size)
        H, A = config.hidden_size, config.attention_size
        self.attention = SoftAttention(feature_size, H, A)
        self.W_zh = nn.Linear(A, self.cell.gate_count * H, bias=False)
        self.z_size = A

    def step(self, word_gates: _Word, state: CellState, context: ImageContext) -> CoreOutput:
        """Attend to the grid, then read one word."""
        z, alpha = self.attend(context, state[0])
        return CoreOutput(
            self.step_stack(word_gates + self.W_zh(z), state, context.gates), z, alpha
        )


class TopDownCore(StackCore):
    """Attention cell and language cell (Anderson et al. 2018, section 3.2).

    The attention cell reads the word and the language cell's last hidden state h2::

        h1, ... = cell(W_xh x + W_vh v + W_sh h2 + b, h1, ...)
        z       = attention(h1)
        h2, ... = second([z; h1], h2, ...)
        h       = h2

    The state is that of the language cell, then that of the attention cell.
    """

    def __init__(self, config: DecoderConfig, feature_size: int) -> None:
        super().__init__(config, feature_size)
        H, A = config.hidden_size, config.attention_size
        self.attention = SoftAttention(feature_size, H, A)
        self.second = build_cell(config.cell, A + H, H)
        self.W_sh = nn.Linear(H, self.cell.gate_count * H, bias=False)

    def complete_state(self, stack_state: CellState) -> CellState:
        """Return the initial state with an all-zero language cell."""
        return (*self.second.initial_state(len(stack_state[0])), *stack_state)

    def step(self, word_gates: _Word, state: CellState, context: ImageContext) -> CoreOutput:
        """Step the attention cell, attend to the grid, and step the language cell."""
        second, first = state[: self.cell.state_count], state[self.cell.state_count :]
        first = self.step_stack(word_gates + self.W_sh(second[0]), first, context.gates)
        z, alpha = self.attend(context, first[0])
        gates = self.second.project_input(torch.cat([z.to(first[0].dtype), first[0]], 1))
        return CoreOutput((*self.second.step(gates, second), *first), attention=alpha)


class MemoryCore(StackCore):
    """Recurrent layers and a visual memory u (Chen & Zitnick 2015, section 3).

    The memory reads only words. v~ is its reconstruction of the image vector::

        u, ... = memory(W_xu x + b_u, u, ...)
        v~     = W_uv u + b_v
        z      = u

    The state is that of the layers, then that of the memory.
    """

    def __init__(self, config: DecoderConfig, feature_size: int) -> None:
        super().__init__(config, feature_size)
        self.memory = build_cell(config.cell, config.embedding_size, config.hidden_size)
        self.W_uv = nn.Linear(config.hidden_size, feature_size)
        self.memory_dropout = Dropout(config.dropout, "tokens")
        self.z_size = config.hidden_size

    @property
    def word_size(self) -> int:
        """S, size of a word's projection for the first layer and the memory."""
        return 2 * len(self.cell.b)

    def word_weights(self) -> list[Tensor]:
        """Return the weights on which :meth:`project_word` depends."""
        return [*super().word_weights(), self.memory.W_xh, self.memory.b]

    def project_word(self, x: Float[Tensor, "*rows E"]) -> Float[Tensor, "*rows S"]:
        """Return ``[W_xh x + b; W_xu x + b_u]``."""
        return torch.cat([super().project_word(x), self.memory.project_input(x)], -1)

    def complete_state(self, stack_state: CellState) -> CellState:
        """Return the initial state with an all-zero memory."""
        return (*stack_state, *self.memory.initial_state(len(stack_state[0])))

    def step(self, word_gates: _Word, state: CellState, context: ImageContext) -> CoreOutput:
        """Read one word with the memory and with the layers."""
        count = self.cell.state_count
        gates, memory_gates = word_gates.chunk(2, 1)
        memory = self.memory.step(memory_gates, state[-count:])
        stack = self.step_stack(gates, state[:-count], context.gates)
        return CoreOutput((*stack, *memory), z=memory[0])

    def reconstruct(self, z: Float[Tensor, "M Z"] | None) -> Float[Tensor, "M D"] | None:
        """Return v~ for each u."""
        return None if z is None else self.W_uv(self.memory_dropout(z))


CORES: dict[CoreName, type[StackCore]] = {
    "stack": StackCore,
    "attention": AttentionCore,
    "top_down": TopDownCore,
    "memory": MemoryCore,
}
