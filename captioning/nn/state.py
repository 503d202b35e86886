"""State of a decoder between two words."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from captioning.nn.attention_training import GridRows
from captioning.nn.cells import CellState


@dataclass(frozen=True)
class ImageContext:
    """Image terms that every step needs, computed once per image.

    Attributes:
        gates: Image term of the gates, such as ``W_vh v``; a cell has k gates per hidden unit.
        readout: Image term of the readout, ``W_vr v``.
        concepts: Term of the concepts in the readout, ``W_sr s``.
        grid: Projected grid positions a, which attention averages.
        keys: Attention keys ``W_ae a``.
        exp_keys: Exponentials of the keys, which replace ``keys`` in a search
            (:meth:`captioning.nn.attention.SoftAttention.exponentiate`).
        padding: Grid positions that are padding; None if there are none.
        grid_rows: Grid, keys and padding of each caption, which replace the three in teacher
            forcing.
    """

    gates: Float[Tensor, "B kH"] | None = None
    readout: Float[Tensor, "B E"] | None = None
    concepts: Float[Tensor, "B E"] | None = None
    grid: Float[Tensor, "B P A"] | None = None
    keys: Float[Tensor, "B P A"] | None = None
    exp_keys: Float[Tensor, "B P A"] | None = None
    padding: Bool[Tensor, "B P"] | None = None
    grid_rows: GridRows | None = None

    def select(self, images: Int[Tensor, " N"]) -> "ImageContext":
        """Return the terms of ``images``, which may repeat."""
        return self._map(lambda term: term.index_select(0, images))

    def truncate(self, count: int) -> "ImageContext":
        """Return the terms of the first ``count`` images as views."""
        return replace(self._map(lambda term: term[:count]), grid_rows=self.grid_rows)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "ImageContext":
        names = ("gates", "readout", "concepts", "grid", "keys", "exp_keys", "padding")
        terms = ((name, getattr(self, name)) for name in names)
        found: dict[str, Any] = {name: function(term) for name, term in terms if term is not None}
        return ImageContext(**found)


@dataclass(frozen=True)
class DecoderState:
    """State of each row during search.

    The N rows of the B images are in the order of the images, N / B for each image.

    Attributes:
        recurrent: States of the recurrent cells.
        context: Terms of each image.
        attention: Attention weights of the last step; None without attention.
    """

    recurrent: CellState
    context: ImageContext
    attention: Float[Tensor, "N P"] | None = None

    def __len__(self) -> int:
        return len(self.recurrent[0])

    @property
    def device(self) -> torch.device:
        """Device of the rows, on which search runs."""
        return self.recurrent[0].device

    def select(
        self, rows: Int[Tensor, " M"], images: Int[Tensor, " K"] | None = None
    ) -> "DecoderState":
        """Return the state of ``rows``; see :class:`captioning.decoding.hypothesis.SearchState`."""
        return DecoderState(
            recurrent=tuple(part.index_select(0, rows) for part in self.recurrent),
            context=self.context if images is None else self.context.select(images),
            attention=None if self.attention is None else self.attention.index_select(0, rows),
        )


def add_image_term(
    rows: Float[Tensor, "N S"], term: Float[Tensor, "B S"] | None
) -> Float[Tensor, "N S"]:
    """Return ``rows`` plus the term of each row's image. An image has N / B consecutive rows."""
    if term is None:
        return rows
    if rows.shape[0] == term.shape[0]:  # len would fix the number of rows in an export
        return rows + term
    return (rows.unflatten(0, (len(term), -1)) + term.unsqueeze(1)).flatten(0, 1)
