"""A safetensors file, read as data that anybody may have written.

The header is compared with the file before a number is read. What is taken at most: 16 MiB for the
header; for one tensor its bytes in the file and as 32-bit numbers, when it is read.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from captioning.checkpoint.json_files import (
    open_regular,
    parse_json,
    read_bytes,
    read_exactly,
    shortened,
)
from captioning.errors import CheckpointError

LARGEST_HEADER = 16 * 2**20
LARGEST_WEIGHTS = 32 * 2**30
_LENGTH = 8
"""Bytes of the number before the header of weights, which says how long the header is."""
_DTYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""What weights are stored as, and what a network counts and indexes with."""


@dataclass(frozen=True)
class StoredTensor:
    """What the header of weights says of one tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


class StoredWeights:
    """An open file of weights whose header is read and whose numbers are not.

    The header has been compared with the file: the tensors lie one after the other, each as long
    as its shape asks, and fill it.
    """

    def __init__(self, file: BinaryIO, path: Path, size: int) -> None:
        self.path = path
        self._file = file
        self._data, header = _read_header(file, path, size)
        self.tensors = {
            name: _stored(name, entry, path)
            for name, entry in header.items()
            if name != "__metadata__"
        }
        """By name, in the order of the file."""
        self.tensors = dict(sorted(self.tensors.items(), key=lambda item: item[1].start))
        end = 0
        for name, stored in self.tensors.items():
            if stored.start != end:
                raise _damaged(path, f"{name} begins at {stored.start} and not at {end}")
            end = stored.end
        if end != size - self._data:
            raise _damaged(path, f"it has {size - self._data} bytes of numbers and speaks of {end}")

    def read(self, name: str) -> Tensor:
        """Return one tensor as it is stored.

        Raises:
            CheckpointError: The file has changed since it was opened.
        """
        stored = self.tensors[name]
        content = torch.empty(stored.end - stored.start, dtype=torch.uint8, device="cpu")
        self._file.seek(self._data + stored.start)
        read_exactly(self._file, content.numpy().data, self.path)
        if stored.dtype == torch.bool:
            return (content != 0).reshape(stored.shape)  # other bytes are no truth values
        return content.view(stored.dtype).reshape(stored.shape)

    def read_finite(self, name: str) -> Tensor:
        """Return one tensor, 32-bit if it has fractions.

        Raises:
            CheckpointError: A value is no finite number, or the file has changed.
        """
        tensor = self.read(name)
        if not tensor.is_floating_point():
            return tensor
        tensor = tensor.float()
        if tensor.numel() and not all(math.isfinite(end) for end in tensor.aminmax()):
            raise CheckpointError(
                f"{self.path}: {name} holds values that are no finite numbers. Its training went "
                "astray, or the file is damaged: use another model, or copy it again."
            )
        return tensor


@contextmanager
def open_weights(path: Path) -> Iterator[StoredWeights]:
    """Open a safetensors file and read its header, and of its numbers nothing.

    Raises:
        CheckpointError: There is none, or its header does not fit it.
    """
    with open_regular(path, LARGEST_WEIGHTS) as (file, size):
        yield StoredWeights(file, path, size)


def _read_header(file: BinaryIO, path: Path, size: int) -> tuple[int, dict[str, Any]]:
    """Return where the numbers begin, and the header."""
    if size < _LENGTH:
        raise _damaged(path, f"it has {size} bytes")
    length = int.from_bytes(read_bytes(file, _LENGTH, path), "little")
    if length > size - _LENGTH:
        raise _damaged(path, f"its header has {length} bytes and the file {size}")
    if length > LARGEST_HEADER:
        raise _damaged(path, f"its header has {length} bytes, more than {LARGEST_HEADER}")
    return _LENGTH + length, parse_json(read_bytes(file, length, path), path)


def _stored(name: str, entry: Any, path: Path) -> StoredTensor:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _damaged(path, f"its header does not say what {name} is")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise CheckpointError(
            f"{path}: {name} is stored as {shortened(repr(dtype))}; models of this package hold "
            f"{', '.join(_DTYPES)}. Copy the model again."
        )
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(
            type(number) is int and 0 <= number < 2**63 for number in numbers
        ):
            raise _damaged(path, f"the shape or the place of {name} is no list of whole numbers")
    if len(offsets) != 2 or len(shape) > 8:
        raise _damaged(path, f"{name} has {len(shape)} dimensions and {len(offsets)} ends")
    start, end = offsets
    wanted = math.prod(shape) * _DTYPES[dtype].itemsize
    if end - start != wanted:
        raise _damaged(
            path, f"{name} of the shape {tuple(shape)} has {end - start} bytes and not {wanted}"
        )
    return StoredTensor(_DTYPES[dtype], tuple(shape), start, end)


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged or cut short ({shortened(reason)}). Copy the model again."
    )
