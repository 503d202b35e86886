"""Safetensors files of unknown origin, read within a bound on memory.

The safetensors library checks the header against the size of the file. This module adds what the
library does not guarantee: only regular files are opened, the header has at most 16 MiB, only
known dtypes are accepted, values are finite, and a file that is cut during reading gives an error.
The library maps a file into memory, where reading beyond its end would kill the process, so tensors
are read with ordinary reads.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from captioning.errors import CheckpointError
from captioning.json_data import open_regular, shorten
from captioning.messages import explain_error

MAX_HEADER_BYTES = 16 * 2**20
MAX_WEIGHTS_BYTES = 32 * 2**30
_LENGTH_BYTES = 8  # a safetensors file begins with the length of its header
_DTYPES = {
    **{"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32},
    **{"I64": torch.int64, "I32": torch.int32, "I8": torch.int8, "U8": torch.uint8},
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class StoredTensor:
    """Entry of the header: where a tensor is and what it looks like."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """Number of bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class WeightsFile:
    """An open safetensors file. Its header is read, its tensors are not."""

    def __init__(self, path: Path, file: BinaryIO, tensors: dict[str, StoredTensor]) -> None:
        self.path = path
        self.tensors = tensors
        self._file = file

    def read(self, name: str) -> Tensor:
        """Return one tensor, converted to 32 bits if it has a floating-point dtype.

        Raises:
            CheckpointError: A value is not finite, or the file was cut since it was opened.
        """
        stored = self.tensors[name]
        content = torch.empty(stored.size, dtype=torch.uint8)
        self._file.seek(stored.start)
        if self._file.readinto(content.numpy()) < stored.size:  # type: ignore[attr-defined]
            raise _damaged(self.path, f"{name} is incomplete")
        if stored.dtype == torch.bool:
            return (content != 0).reshape(stored.shape)  # bools of other bytes are undefined
        tensor = content.view(stored.dtype).reshape(stored.shape)
        if not tensor.is_floating_point():
            return tensor
        tensor = tensor.float()
        if tensor.numel() and not all(math.isfinite(end) for end in tensor.aminmax()):
            raise CheckpointError(
                f"{self.path}: {name} has values that are not finite: its training diverged, or "
                "the file is damaged. Use another model, or copy it again."
            )
        return tensor


@contextmanager
def open_weights(path: Path, max_bytes: int = MAX_WEIGHTS_BYTES) -> Iterator[WeightsFile]:
    """Open a safetensors file and read its header.

    Args:
        path: The file.
        max_bytes: Largest size of the file.

    Raises:
        CheckpointError: The file cannot be opened, is too large, or its header does not describe
            its content.
    """
    with ExitStack() as stack:
        try:
            file, _ = stack.enter_context(open_regular(path, max_bytes))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"cannot read '{path}': {explain_error(error)}. Copy the model again."
            ) from None
        yield WeightsFile(path, file, _read_header(path, file))


def _read_header(path: Path, file: BinaryIO) -> dict[str, StoredTensor]:
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if length > MAX_HEADER_BYTES:
        raise _damaged(path, f"its header has {length} bytes, the limit is {MAX_HEADER_BYTES}")
    tensors = {}
    start = _LENGTH_BYTES + length
    try:
        with safe_open(path, "pt") as header:
            for name in header.offset_keys():  # the tensors lie one after the other
                entry = header.get_slice(name)
                dtype = _DTYPES.get(entry.get_dtype())
                if dtype is None:
                    raise CheckpointError(
                        f"{path}: {shorten(name)} has dtype {entry.get_dtype()}, expected one of "
                        f"{', '.join(_DTYPES)}. Copy the model again."
                    )
                tensors[name] = StoredTensor(dtype, tuple(entry.get_shape()), start)
                start += tensors[name].size
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error
    return tensors


def _damaged(path: Path, reason: object) -> CheckpointError:
    return CheckpointError(
        f"'{path}' is damaged or truncated: {shorten(reason)}. Copy the model again."
    )
