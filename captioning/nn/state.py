"""What a decoder knows between one word and the next."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from captioning.nn.cells import CellState


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
