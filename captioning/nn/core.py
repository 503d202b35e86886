"""The weights of a decoder, and what it does in one step."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from captioning.errors import ConfigError
from captioning.nn.attention import SoftAttention
from captioning.nn.cells import CellState, RecurrentCell, build_cell
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.dropout import Dropout
from captioning.nn.features import Features
from captioning.nn.state import ImageContext


class DecoderCore(nn.Module):
    """A word embedding, recurrent cells that see the image, and a readout to words, for one step.

    :class:`captioning.nn.Decoder` has the equations, and makes sequences of the steps.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        E, H, D = config.embedding_size, config.hidden_size, config.feature_size
        beside_word = config.injection == "every_input"
        in_gates = D if config.injection in ("recurrent", "first_word") else None
        self.embedding = nn.Embedding(config.vocabulary_size, E)
        nn.init.normal_(self.embedding.weight, std=E**-0.5)
        self.W_ee = nn.Linear(E, E) if config.embedding_layers == 2 else None
        self.cell = build_cell(
            config.cell, 2 * E if beside_word else E, H, None if config.factored else in_gates
        )
        self.upper = nn.ModuleList(
            build_cell(config.cell, H, H, in_gates if config.factored and last else None)
            for last in (layer == config.layers for layer in range(2, config.layers + 1))
        )
        self.W_vx = nn.Linear(D, E) if beside_word or config.injection == "first_step" else None
        numbers = config.layers * self.cell.state_count * H
        self.W_v0 = nn.Linear(D, numbers) if config.injection == "init_state" else None
        self.W_vr = nn.Linear(D, E, bias=False) if config.injection == "merge" else None
        sees_word = config.multimodal or config.deep_output
        self.W_xr = nn.Linear(E, E, bias=False) if sees_word else None
        if config.attention:
            self._build_attention()
        if config.reconstruct:
            self.memory = build_cell(config.cell, E, H)
            self.W_ur = nn.Linear(H, E, bias=False)
            self.W_uv = nn.Linear(H, D)
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

    def train(self, mode: bool = True) -> "DecoderCore":
        """Go into training or evaluation mode, and forget the table of words.

        torch's fused optimizers change weights and leave their versions as they were, so that
        these do not tell that a step of training has made it stale.
        """
        self._table = None
        return super().train(mode)

    def _build_attention(self) -> None:
        config = self.config
        E, H, D, A = (
            config.embedding_size,
            config.hidden_size,
            config.feature_size,
            config.attention_size,
        )
        self.W_a = nn.Linear(D, A)
        self.attend = SoftAttention(A, H, A)
        if config.top_down:
            self.second = build_cell(config.cell, A + H, H)
            self.W_sh = nn.Linear(H, self.cell.gate_count * H, bias=False)
        else:
            self.W_zh = nn.Linear(A, self.cell.gate_count * H, bias=False)
            self.W_zr = nn.Linear(A, E, bias=False)

    # --- once per image -----------------------------------------------------------------------

    def look(self, features: Features) -> tuple[CellState, ImageContext]:
        """Return each image's first recurrent state and all that later steps need of it.

        The states of all cells lie one after the other: that of the cell whose hidden state says
        the word comes first, the one that reads words last, and after it the memory's.
        """
        config = self.config
        state = self.cell.initial_state(len(features)) * config.layers
        context = ImageContext()
        if config.injection != "none":
            # One mask for v and for every position: dropping numbers of single positions costs a
            # random number for each, and the others would give away what is missing.
            features = features.masked(self.dropout(torch.ones_like(features.vector)))
            state, context = self._inject(features.vector, state)
            if config.attention:
                if features.grid is None:
                    raise ConfigError(
                        "This decoder attends to the grid, but the features hold vectors only. "
                        "Cache the features again with the grid kept."
                    )
                grid = torch.relu(self.W_a(features.grid))
                context = replace(context, grid=grid, keys=self.attend.keys(grid))
        if config.top_down:
            state = (*self.second.initial_state(len(features)), *state)
        if config.reconstruct:
            state = (*state, *self.memory.initial_state(len(features)))
        return state, context

    def _inject(self, v: Float[Tensor, "B D"], state: CellState) -> tuple[CellState, ImageContext]:
        """Return the first state and what later steps need of v, where it enters as configured."""
        config = self.config
        if self.W_v0 is not None:
            return torch.tanh(self.W_v0(v)).chunk(len(state), 1), ImageContext()
        if self.W_vr is not None:
            return state, ImageContext(merged=self.W_vr(v))
        if self.W_vx is None:
            seeing = self.upper[-1] if config.factored else self.cell
            assert isinstance(seeing, RecurrentCell)
            return state, ImageContext(gates=seeing.project_image(v))
        if config.injection == "first_step":
            return self._climb(self.cell.project_input(self.W_vx(v)), state, None), ImageContext()
        image_columns = self.cell.W_xh[:, config.embedding_size :]
        return state, ImageContext(gates=nn.functional.linear(self.W_vx(v), image_columns))

    # --- what every step does -----------------------------------------------------------------

    def _word_shares(self, embedded: Float[Tensor, "*rows E"]) -> Float[Tensor, "*rows S"]:
        """Return a word's share of all that is added up in a step, side by side.

        Of the first cell's gates (``W_xh E[w] + b``), and where they are there, of the memory's
        gates and of the readout.
        """
        x = embedded if self.W_ee is None else torch.relu(self.W_ee(embedded))
        word_columns = self.cell.W_xh[:, : self.config.embedding_size]
        shares = [nn.functional.linear(x, word_columns, self.cell.b)]
        if self.config.reconstruct:
            shares.append(self.memory.project_input(x))
        if self.W_xr is not None:
            shares.append(self.W_xr(x))
        return shares[0] if len(shares) == 1 else torch.cat(shares, -1)

    @torch.no_grad()
    def _word_table(self) -> Float[Tensor, "V S"]:
        """Return the shares of every word, computed again when a weight or the mode has changed."""
        parts: list[nn.Module | None] = [self.embedding, self.cell, self.W_ee, self.W_xr]
        parts += [self.memory] if self.config.reconstruct else []
        weights = [w for part in parts if part is not None for w in part.parameters()]
        state: list[Any] = [(w.data_ptr(), w._version, w.device, w.dtype) for w in weights]
        state.append(torch.is_autocast_enabled(self.embedding.weight.device.type))
        if self._table is None or self._table[0] != state:
            self._table = (state, self._word_shares(self.embedding.weight))
        return self._table[1]

    def _advance(
        self, shares: Float[Tensor, "N S"], state: CellState, context: ImageContext
    ) -> tuple[CellState, Float[Tensor, "N A"] | None, Float[Tensor, "N P"] | None]:
        """Go one step on.

        Returns:
            The state; the context vector, where the readout sees it; the weights of attention.
        """
        config, count = self.config, self.cell.state_count
        G = self.cell.gate_count * config.hidden_size
        gates = shares[:, :G]
        if config.reconstruct:
            state, memory = state[:-count], state[-count:]
            memory = self.memory.step(shares[:, G : 2 * G], memory)
            return (*self._climb(gates, state, context.gates), *memory), None, None
        if context.grid is None or context.keys is None:
            return self._climb(gates, state, context.gates), None, None
        if not config.top_down:
            z, alpha = self.attend(context.grid, context.keys, state[0])
            return self._climb(gates + self.W_zh(z), state, context.gates), z, alpha
        second, first = state[:count], state[count:]
        first = self._climb(gates + self.W_sh(second[0]), first, context.gates)
        z, alpha = self.attend(context.grid, context.keys, first[0])
        inputs = self.second.project_input(torch.cat([z.to(first[0].dtype), first[0]], 1))
        return (*self.second.step(inputs, second), *first), None, alpha

    def _climb(
        self,
        gates: Float[Tensor, "N G"],
        state: CellState,
        image_gates: Float[Tensor, "N G"] | None,
    ) -> CellState:
        """Step the cell that reads words, and then each one above it."""
        count, factored = self.cell.state_count, self.config.factored
        if image_gates is not None and not factored:
            gates = gates + image_gates
        after = self.cell.step(gates, state[-count:])
        for layer, cell in enumerate(self.upper, 2):
            assert isinstance(cell, RecurrentCell)
            gates = cell.project_input(self.dropout(after[0]))
            if image_gates is not None and factored and layer == self.config.layers:
                gates = gates + image_gates
            end = len(state) - (layer - 1) * count
            after = (*cell.step(gates, state[end - count : end]), *after)
        return after

    def _readout(
        self,
        shares: Float[Tensor, "M S"],
        h: Float[Tensor, "M H"],
        z: Float[Tensor, "M A"] | None,
        u: Float[Tensor, "M H"] | None,
        merged: Float[Tensor, "M E"] | None,
    ) -> Float[Tensor, "M V"]:
        """Return the logits of the next word."""
        r = self.W_hr(self.dropout(h))
        if z is not None:
            r = r + self.W_zr(self.dropout(z))
        if u is not None:
            r = r + self.W_ur(self.dropout(u))
        if self.W_xr is not None:
            r = r + shares[:, -self.config.embedding_size :]
        if merged is not None:
            r = r + merged
            # The scaled one is of LeCun et al. (1998), section 4.4.
            r = 1.7159 * torch.tanh(r * (2 / 3)) if self.config.multimodal else torch.tanh(r)
        return self.W_rw(self.dropout(r))
