"""The matrix products of a decoder: the limit of what it can reach on a machine.

Left out are sums that use each value of their inputs once, such as those of the attention: they are
limited by memory, and can be part of other operations.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_IMAGE = ("W_vh", "W_vx", "W_v0", "W_vr")
_GRID = ("W_a", "W_ae")
_WORD = ("embedding", "W_ee", "W_xr", "core.cell.W_xh", "core.memory.W_xh")
_NO_PRODUCT = ("w_e", "embedding")
_FROZEN_INPUT = ("W_vh", "W_vx", "W_v0", "W_vr", "W_a")


@dataclass(frozen=True)
class Weights:
    """The matrices of a decoder, by what they are multiplied by.

    Attributes:
        image: The vector of each image.
        grid: Each grid position of each image.
        word: Each different word of a batch.
        step: The state of each hypothesis, one step at a time.
        readout: The same, but after the last step if the words are known.
        frozen_input: Those of them whose input needs no gradient.
    """

    image: list[Tensor]
    grid: list[Tensor]
    word: list[Tensor]
    step: list[Tensor]
    readout: list[Tensor]
    frozen_input: list[Tensor]

    @classmethod
    def of(cls, decoder: nn.Module) -> "Weights":
        """Sort the matrices of a decoder by their names."""
        matrices = {
            name.removesuffix(".weight"): weight.detach()
            for name, weight in decoder.named_parameters(remove_duplicate=False)
            if weight.ndim == 2
        }

        def select(*layers: str) -> list[str]:
            return [
                name
                for name in matrices
                if any(name == layer or name.endswith(f".{layer}") for layer in layers)
            ]

        image, grid, word = select(*_IMAGE), select(*_GRID), select(*_WORD)
        rest = [n for n in matrices if n not in (*image, *grid, *word, *select(*_NO_PRODUCT))]
        step = [n for n in rest if n.startswith("core") and not n.endswith("W_uv")]
        groups = (image, grid, [n for n in word if n not in select(*_NO_PRODUCT)], step,
                  [n for n in rest if n not in step], select(*_FROZEN_INPUT))  # fmt: skip
        return cls(*([matrices[name] for name in group] for group in groups))


@dataclass(frozen=True)
class Product:
    """``inputs @ weight.T`` with random inputs.

    Attributes:
        rows: Rows of the inputs.
        weight: The matrix.
        passes: Which of the products of training are computed: "y" is the output, "x" the gradient
            of the inputs and "w" that of the weight.
    """

    rows: int
    weight: Tensor
    passes: str = "y"

    @property
    def operations(self) -> float:
        """Multiplications and additions."""
        return 2.0 * self.rows * self.weight.numel() * len(self.passes)


class Products:
    """Products in one precision, with all inputs in memory.

    Args:
        products: The products.
        dtype: Type of all numbers.
    """

    def __init__(self, products: Sequence[Product], dtype: torch.dtype) -> None:
        self.products = products
        self.operations = sum(product.operations for product in products)
        self._weights = {id(each.weight): each.weight.to(dtype) for each in products}
        shapes = {(each.rows, size) for each in products for size in each.weight.shape}
        self._inputs = {shape: torch.randn(shape).to(dtype) for shape in shapes}

    @torch.no_grad()
    def run(self) -> None:
        """Compute all products once."""
        for product in self.products:
            weight = self._weights[id(product.weight)]
            x, y = (self._inputs[product.rows, size] for size in reversed(weight.shape))
            if "y" in product.passes:
                nn.functional.linear(x, weight)
            if "x" in product.passes:
                y @ weight
            if "w" in product.passes:
                y.T @ x


def search_products(
    weights: Weights, step_rows: Sequence[int], batches: Sequence[int], positions: int
) -> list[Product]:
    """Return the products of a search; those of words are a table, computed once per model.

    Args:
        weights: Matrices of the decoder.
        step_rows: Rows of each step.
        batches: Images of each batch.
        positions: Grid positions of an image.
    """
    products = [Product(rows, w) for rows in step_rows for w in (*weights.step, *weights.readout)]
    for images in batches:
        products += [Product(images, w) for w in weights.image]
        products += [Product(images * positions, w) for w in weights.grid]
    return products


def teacher_forcing_products(
    weights: Weights, step_rows: Sequence[int], images: int, words: int, positions: int
) -> list[Product]:
    """Return the products of one training step, forward and backward.

    Args:
        weights: Matrices of the decoder.
        step_rows: Captions that have a word at each step.
        images: Images of the batch.
        words: Number of its different words.
        positions: Grid positions of an image.
    """
    frozen = {id(w) for w in weights.frozen_input}
    products = [Product(rows, w, "yx") for rows in step_rows for w in weights.step]
    products += [Product(sum(step_rows), w, "w") for w in weights.step]
    products += [Product(sum(step_rows), w, "yxw") for w in weights.readout]
    products += [Product(words, w, "yxw") for w in weights.word]
    for rows, group in ((images, weights.image), (images * positions, weights.grid)):
        products += [Product(rows, w, "yw" if id(w) in frozen else "yxw") for w in group]
    return products
