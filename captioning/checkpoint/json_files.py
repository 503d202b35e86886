"""The files of a model directory, read as data that anybody may have written.

Nothing in such a file is run, looked up or believed. Only regular files are opened, and no more of
one is read than its kind may hold: of JSON 16 MiB of text, 64 levels deep, for which about 0.5 GiB
are taken while it is read.
:mod:`captioning.checkpoint.weights_file` reads weights in the same spirit.
"""

import json
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, BinaryIO, Literal, Union, get_args, get_origin, get_type_hints

from captioning.errors import CheckpointError
from captioning.messages import suggest

LARGEST_JSON = 16 * 2**20
DEEPEST_JSON = 64

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
        inner = path.parent / "model"  # where a training run keeps it
        known = os.path.isfile(inner / path.name)  # noqa: PTH113  (where nobody may look: no)
        advice = f"Did you mean {inner}?" if known else "Copy the model again."
        raise CheckpointError(
            f"{path.parent} has no {path.name}: it is no model directory, or not all of it was "
            f"copied. {advice}"
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


def read_exactly(file: BinaryIO, into: memoryview, path: Path) -> None:
    """Fill ``into`` with the next bytes of a file.

    Raises:
        CheckpointError: The file ends before.
    """
    done = 0
    while done < len(into):
        count = file.readinto(into[done:])  # type: ignore[attr-defined]
        if not count:
            raise CheckpointError(f"{path} is damaged or cut short. Copy the model again.")
        done += count


def read_bytes(file: BinaryIO, size: int, path: Path) -> bytes:
    """Return the next ``size`` bytes of a file; errors are those of :func:`read_exactly`."""
    content = bytearray(size)
    read_exactly(file, memoryview(content), path)
    return bytes(content)


# --- JSON -------------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        CheckpointError: It cannot be read, is too large or too deep, or holds something else.
    """
    with open_regular(path, LARGEST_JSON) as (file, size):
        return parse_json(read_bytes(file, size, path), path)


def parse_json(text: bytes, path: Path) -> dict[str, Any]:
    """Return the JSON object that ``text`` is; errors are those of :func:`read_json`."""
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
                f"{suggest(name, known)} A newer version of this package may know it."
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
