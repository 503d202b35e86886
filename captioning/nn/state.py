"""State of a decoder between two words."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from captioning.nn.cells import CellState


@dataclass(frozen=True)
class ImageContext:
    """Image terms that every step needs, computed once per image.

    Attributes:
        gates: Image term of the gates, such as ``W_vh v``.
        readout: Image term of the readout, ``W_vr v``.
        grid: Projected grid positions a, which attention averages.
        keys: Attention keys ``W_ae a``.
    """

    gates: Float[Tensor, "B kH"] | None = None
    readout: Float[Tensor, "B E"] | None = None
    grid: Float[Tensor, "B P A"] | None = None
    keys: Float[Tensor, "B P A"] | None = None

    def select(self, images: Int[Tensor, " N"]) -> "ImageContext":
        """Return the terms of ``images``, which may repeat."""
        return ImageContext(
            *(None if term is None else term.index_select(0, images) for term in self._terms)
        )

    def truncate(self, count: int) -> "ImageContext":
        """Return the terms of the first ``count`` images as views."""
        return ImageContext(*(None if term is None else term[:count] for term in self._terms))

    @property
    def _terms(self) -> tuple[Tensor | None, ...]:
        return self.gates, self.readout, self.grid, self.keys


@dataclass(frozen=True)
class DecoderState:
    """State of each row during search.

    Attributes:
        recurrent: States of the recurrent cells.
        context: Terms of each image.
        image: Index in ``context`` of each row's image.
        attention: Attention weights of the last step; None without attention.
        row_context: ``context`` selected for each row; None until a step needs it.
    """

    recurrent: CellState
    context: ImageContext
    image: Int[Tensor, " N"]
    attention: Float[Tensor, "N P"] | None = None
    row_context: ImageContext | None = None

    def __len__(self) -> int:
        return len(self.image)

    @property
    def device(self) -> torch.device:
        """Device of the rows, on which search runs."""
        return self.image.device

    def select(self, rows: Int[Tensor, " M"]) -> "DecoderState":
        """Return the state of ``rows``, which may repeat."""
        image = self.image.index_select(0, rows)
        # Beam search usually moves rows within their image, so the selected terms stay valid.
        row_context = self.row_context if torch.equal(image, self.image) else None
        return replace(
            self,
            recurrent=tuple(part.index_select(0, rows) for part in self.recurrent),
            image=image,
            attention=None if self.attention is None else self.attention.index_select(0, rows),
            row_context=row_context,
        )
