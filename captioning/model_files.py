"""The files of a model directory, read as data that anybody may have written.

Nothing in such a file is run, looked up or believed. Only regular files are opened, no more of one
is read than its kind may hold, and a file's own claims about its size are compared with its size.
What these readers take at most:

    a JSON file          16 MiB of text, 64 levels deep; about 0.5 GiB while it is read
    a header of weights  16 MiB
    one tensor           its bytes in the file and as 32-bit numbers, when it is read
"""

import json
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, BinaryIO, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from captioning.errors import CheckpointError, nearest

LARGEST_JSON = 16 * 2**20
LARGEST_HEADER = 16 * 2**20
LARGEST_WEIGHTS = 32 * 2**30
DEEPEST_JSON = 64
_LENGTH = 8
"""Bytes of the number before the header of weights, which says how long the header is."""
_DTYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""What weights are stored as, and what a network counts and indexes with."""


# --- any file ---------------------------------------------------------------------------------


@contextmanager
def open_regular(path: Path, largest: int) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file for reading, and give its size with it.

    Args:
        path: A link is followed: a download cache is made of links.
        largest: Bytes that it may have.

    Raises:
        CheckpointError: There is none, it is a pipe, a device or a folder, or it is too large.
    """
    try:
        _check_regular(path, path.stat(), largest)  # to open a device can already do something
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.parent} has no {path.name}: it is no model directory, or not all of it was "
            "copied. Copy the model again."
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Copy the model again.") from error
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        _check_regular(path, status, largest)
        yield file, status.st_size


def _check_regular(path: Path, status: os.stat_result, largest: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
        kind = kinds.get(stat.S_IFMT(status.st_mode), "device")
        raise CheckpointError(f"{path} is a {kind} and no regular file. Copy the model again.")
    if status.st_size > largest:
        raise CheckpointError(
            f"{path} has {status.st_size:,} bytes; no model has more than {largest:,} there. "
            "Copy the model again."
        )


def _read_exactly(file: BinaryIO, into: memoryview, path: Path) -> None:
    done = 0
    while done < len(into):
        count = file.readinto(into[done:])  # type: ignore[attr-defined]
        if not count:
            raise CheckpointError(f"{path} is damaged or cut short. Copy the model again.")
        done += count


def _read_bytes(file: BinaryIO, size: int, path: Path) -> bytes:
    content = bytearray(size)
    _read_exactly(file, memoryview(content), path)
    return bytes(content)


# --- JSON -------------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        CheckpointError: It cannot be read, is too large or too deep, or holds something else.
    """
    with open_regular(path, LARGEST_JSON) as (file, size):
        return _parse(_read_bytes(file, size, path), path)


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(text.decode("utf-8"), object_pairs_hook=_without_repeats)
        if isinstance(content, dict):
            _check_depth(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read as JSON: {shortened(error)}. Copy the model again."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object. Copy the model again.")
    return content


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in content if names.count(name) > 1)
        raise ValueError(f"{shortened(repr(twice))} stands in it twice")
    return content


def _check_depth(content: dict[str, Any]) -> None:
    """Raise a ValueError where JSON is nested too deeply, or holds half a character."""
    level: list[Any] = [content]
    for _ in range(DEEPEST_JSON):
        names = [name for part in level if isinstance(part, dict) for name in part]
        values = [v for part in level for v in (part.values() if isinstance(part, dict) else part)]
        for text in (*names, *values):
            if isinstance(text, str) and not text.isascii():
                text.encode("utf-8")  # half of a surrogate pair cannot be printed or saved
        level = [value for value in values if isinstance(value, dict | list)]
        if not level:
            return
    raise ValueError(f"it is nested more than {DEEPEST_JSON} levels deep")


def shortened(message: object, length: int = 300) -> str:
    """Return a message that may repeat what a file holds, at a length that can be read."""
    text = str(message)
    return text if len(text) <= length else f"{text[:length]}…"


# --- settings ---------------------------------------------------------------------------------


def read_settings(
    kind: Any,
    content: Any,
    path: Path,
    *,
    part: str = "settings",
    before: Mapping[str, Any] | None = None,
) -> Any:
    """Return the dataclass whose fields a JSON object holds, each of its declared type.

    Args:
        kind: A dataclass of numbers, truth values, strings, literals and tuples of them.
        content: The JSON object.
        path: Where it was found, for the message.
        part: What it says something of, for the message.
        before: Settings that older files do not name, and what they are then.

    Raises:
        CheckpointError: A setting is unknown, missing, or not of its type.
    """
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} has no {part}. Copy the model again.")
    content = {**(before or {}), **content}
    known = {entry.name for entry in fields(kind)}
    for name in content:
        if name not in known:
            raise CheckpointError(
                f"{path}: {shortened(repr(name))} is not among the {part}'s settings."
                f"{nearest(name, known)} A newer version of this package may know it."
            )
    if lacking := sorted(known - set(content)):
        raise CheckpointError(
            f"{path}: the {part} lacks {', '.join(lacking)}. Copy the model again."
        )
    types = get_type_hints(kind)
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}
    for name, value in values.items():
        if not _fits(value, types[name]):
            raise CheckpointError(
                f"{path}: the {part}'s {name} is {shortened(repr(content[name]))}; it is "
                f"{_in_words(types[name])}. Copy the model again."
            )
    return translated(lambda: kind(**values), path)


def _fits(value: Any, wanted: Any) -> bool:
    origin, parts = get_origin(wanted), get_args(wanted)
    if origin is Literal:
        return isinstance(value, str)  # which of them is for the dataclass to say
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        return (
            isinstance(value, tuple)
            and len(value) == len(parts)
            and all(_fits(one, part) for one, part in zip(value, parts, strict=True))
        )
    if wanted is float:
        return (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and abs(value) < 1e30
            and math.isfinite(value)
        )
    return type(value) is wanted


def _in_words(wanted: Any) -> str:
    origin, parts = get_origin(wanted), get_args(wanted)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, parts))
    if origin in (Union, UnionType):
        return " or ".join(map(_in_words, parts))
    if origin is tuple:
        return f"a list of length {len(parts)}, each of them {_in_words(parts[0])}"
    return {
        bool: "true or false",
        int: "a whole number",
        float: "a finite number",
        str: "a string",
        NoneType: "null",
    }[wanted]


def translated(make: Callable[[], Any], path: Path) -> Any:
    """Return ``make()``; what it raises becomes a CheckpointError that names the file.

    Libraries that build networks raise errors of any kind where settings make no sense.
    """
    try:
        return make()
    except CheckpointError:
        raise
    except MemoryError as error:
        raise CheckpointError(f"{path} asks for more memory than there is. Free some.") from error
    except Exception as error:
        reason = shortened(error) or type(error).__name__
        raise CheckpointError(
            f"{path}: {reason.rstrip('.')}. Correct it there, or copy the model again."
        ) from error


# --- weights ----------------------------------------------------------------------------------


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
        _read_exactly(self._file, content.numpy().data, self.path)
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
    length = int.from_bytes(_read_bytes(file, _LENGTH, path), "little")
    if length > size - _LENGTH:
        raise _damaged(path, f"its header has {length} bytes and the file {size}")
    if length > LARGEST_HEADER:
        raise _damaged(path, f"its header has {length} bytes, more than {LARGEST_HEADER}")
    return _LENGTH + length, _parse(_read_bytes(file, length, path), path)


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
