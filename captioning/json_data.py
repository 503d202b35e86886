"""JSON text as dataclasses: the one way in which this package reads structured files.

Types are checked by msgspec: a bool is not an int, and NaN, infinities and numbers that overflow a
float are refused. Plain dataclasses of msgspec ignore unknown fields, so names are checked here:
unknown and repeated fields are refused as well. Every error names the file and the field, such as
``config.json: decoder.hidden_size: expected an integer, found "big"``.
"""

import dataclasses
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import GenericAlias
from typing import Any, BinaryIO, TypeVar, cast, get_args, get_type_hints

import msgspec

from captioning.errors import CaptioningError, ConfigError
from captioning.messages import suggest

MAX_JSON_BYTES = 16 * 2**20
MAX_JSON_DEPTH = 64
ADVICE = "Correct it, or copy the file again."
_TYPE_WORDS = {
    **{"int": "an integer", "float": "a number", "str": "a string", "bool": "true or false"},
    **{"array": "a list", "object": "an object", "null": "null"},
}

T = TypeVar("T")


def read_json(
    path: Path,
    kind: type[T],
    *,
    require_all: bool = False,
    error: type[CaptioningError] = ConfigError,
) -> T:
    """Read a JSON file as a value of type ``kind``.

    Args:
        path: A regular file of at most 16 MiB. Reading takes at most 0.5 GiB of memory.
        kind: A dataclass, or ``dict`` for any JSON object.
        require_all: Refuse files that leave out a field, even if the field has a default.
        error: Exception class of all errors.

    Raises:
        CaptioningError: The file cannot be read, or its content is not a ``kind``. The class is
            ``error``.
    """
    try:
        with open_regular(path, MAX_JSON_BYTES) as (file, size):
            text = file.read(size)
    except (OSError, ValueError) as reason:
        raise error(f"cannot read '{path}': {reason}. Copy the file again.") from reason
    return parse_json(text, kind, source=str(path), require_all=require_all, error=error)


def parse_json(
    text: bytes | str,
    kind: type[T],
    *,
    source: str,
    require_all: bool = False,
    error: type[CaptioningError] = ConfigError,
    advice: str = ADVICE,
) -> T:
    """Parse JSON text as a value of type ``kind``.

    Args:
        text: JSON, nested at most 64 levels deep.
        kind: As in :func:`read_json`.
        source: File name or other origin, for error messages.
        require_all: As in :func:`read_json`.
        error: As in :func:`read_json`.
        advice: Last sentence of an error.

    Raises:
        CaptioningError: The text is not JSON, or is not a ``kind``. The class is ``error``.
    """
    try:
        value = msgspec.json.decode(text, type=kind, dec_hook=_convert_path)
        if kind is dict:
            del value  # a second copy of a hostile file would break the memory bound
        content: Any = json.loads(text, object_pairs_hook=_refuse_repeats)
        _check_depth(content)
        if kind is dict:
            return cast(T, content)  # it has no fields, so no name can be wrong
        for problem in _name_problems(content, value, "", require_all):
            raise ValueError(problem)
    except msgspec.ValidationError as reason:
        raise error(f"{source}: {_sentence(_describe(reason, text, kind))} {advice}") from None
    except (ValueError, RecursionError) as reason:  # msgspec.DecodeError is a ValueError
        raise error(f"{source}: {_sentence(_in_words(shorten(reason)))} {advice}") from None
    return value


def from_json(
    content: Any,
    kind: type[T],
    *,
    source: str,
    require_all: bool = False,
    error: type[CaptioningError] = ConfigError,
    advice: str = ADVICE,
) -> T:
    """Return parsed JSON content as a value of type ``kind``.

    Args and errors are those of :func:`parse_json`.
    """
    text = json.dumps(content)
    return parse_json(
        text, kind, source=source, require_all=require_all, error=error, advice=advice
    )


def convert_json(
    content: Any,
    kind: type[T] | GenericAlias,
    *,
    source: str,
    error: type[CaptioningError] = ConfigError,
    advice: str = ADVICE,
) -> T:
    """Return the fields of parsed JSON content that ``kind`` names; others are ignored.

    For files of other programs, which contain more than this package reads.

    Args:
        content: Parsed JSON.
        kind: A dataclass, or a list of one.
        source: As in :func:`parse_json`.
        error: As in :func:`parse_json`.
        advice: Last sentence of an error.

    Raises:
        CaptioningError: The content is not a ``kind``. The class is ``error``.
    """
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as reason:
        text = _describe(reason, json.dumps(content), kind)
        raise error(f"{source}: {_sentence(text)} {advice}") from None


def choice_from_json(
    content: Mapping[str, Any],
    choices: Mapping[str, type[T]],
    *,
    tag: str,
    source: str,
    error: type[CaptioningError] = ConfigError,
) -> T:
    """Return one of several dataclasses, chosen by the value of the field ``tag``.

    Args:
        content: A JSON object: the tag, and the fields of the dataclass that it names.
        choices: The dataclass of each value of the tag.
        tag: Name of the field that chooses.
        source: As in :func:`parse_json`.
        error: As in :func:`parse_json`.

    Raises:
        CaptioningError: The tag is unknown, or the other fields do not fit. The class is ``error``.
    """
    name = content.get(tag)
    if not isinstance(name, str) or name not in choices:
        raise error(
            f"{source}: {tag}: expected one of {', '.join(choices)}, found {_show(name)}."
            f"{suggest(str(name), choices)} {ADVICE}"
        )
    fields = {key: value for key, value in content.items() if key != tag}
    return from_json(fields, choices[name], source=source, error=error)


@contextmanager
def open_regular(path: Path, max_bytes: int) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file for reading, and yield it with its size in bytes.

    Pipes and devices are refused before they are opened, because opening one can block or have an
    effect. Links are followed: the download cache of a model hub consists of links.

    Raises:
        OSError: The file cannot be opened.
        ValueError: The path is not a regular file, or the file is larger than ``max_bytes``.
    """
    _check_regular(path.stat(), max_bytes)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        _check_regular(status, max_bytes)
        yield file, status.st_size


def _check_regular(status: os.stat_result, max_bytes: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
        kind = kinds.get(stat.S_IFMT(status.st_mode), "device")
        raise ValueError(f"it is a {kind}, not a regular file")
    if status.st_size > max_bytes:
        raise ValueError(f"it has {status.st_size:,} bytes, the limit is {max_bytes:,}")


def shorten(message: object, length: int = 300) -> str:
    """Return a text that may quote the content of a file, cut to a readable length."""
    text = str(message)
    return text if len(text) <= length else f"{text[:length]}…"


def _convert_path(kind: type, value: Any) -> Any:
    if kind is not Path:
        raise NotImplementedError(f"{kind} cannot be read from JSON")
    if not isinstance(value, str):
        raise ValueError("Expected `str`")
    return Path(value)


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in content if names.count(name) > 1)
        raise ValueError(f"the field {_show(repeated)} is repeated")
    return content


def _check_depth(content: Any) -> None:
    level: list[Any] = [[content]]
    for _ in range(MAX_JSON_DEPTH + 1):
        values = (v for part in level for v in (part.values() if isinstance(part, dict) else part))
        level = [value for value in values if isinstance(value, dict | list)]
        if not level:
            return
    raise ValueError(f"it is nested more than {MAX_JSON_DEPTH} levels deep")


def _name_problems(content: Any, value: Any, path: str, require_all: bool) -> Iterator[str]:
    """Yield unknown and missing fields, where ``value`` is what msgspec made of ``content``."""
    children: Iterable[tuple[Any, Any]] = ()
    if dataclasses.is_dataclass(value):
        names = [entry.name for entry in dataclasses.fields(value)]
        for name in content:
            if name not in names:
                yield f"{_join(path, name)}: unknown field.{suggest(shorten(name), names)}"
        for name in names if require_all else ():
            if name not in content:
                yield f"{_join(path, name)}: the field is missing"
        children = ((name, getattr(value, name)) for name in names if name in content)
    elif isinstance(value, dict):
        children = value.items()
    elif isinstance(value, tuple | list):
        children = enumerate(value)
    for key, child in children:
        if isinstance(content[key], dict | list):
            yield from _name_problems(content[key], child, _join(path, key), require_all)


def _join(path: str, key: str | int) -> str:
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{shorten(key)}" if path else shorten(key)


def _describe(reason: msgspec.ValidationError, text: bytes | str, kind: Any) -> str:
    """Return an error of msgspec with the path of the field and the value that was found."""
    message, _, path = str(reason).partition(" - at `$")
    path = path.removesuffix("`").removeprefix(".")
    prefix = f"{path}: " if path else ""
    message = _in_words(message)
    try:
        found, kind = _look_up(path, json.loads(text), kind)
    except (ValueError, LookupError, TypeError, RecursionError):
        return prefix + message  # the path has "[...]" for a key, or the rest is not JSON
    if message.startswith("invalid enum value"):
        message = f"expected one of {', '.join(map(str, get_args(kind)))}"
    elif isinstance(found, dict):  # the message is one of the dataclass and names its field
        return prefix + message
    return f"{prefix}{message.partition(', got')[0]}, found {_show(found)}"


def _look_up(path: str, content: Any, kind: Any) -> tuple[Any, Any]:
    """Return the value at a path of msgspec, such as ``a.b[2]``, and the type of a field there."""
    for part in re.findall(r"[^.\[\]]+|\.\.\.", path):
        content = content[int(part) if isinstance(content, list) else part]
        kind = get_type_hints(kind)[part] if dataclasses.is_dataclass(kind) else None
    return content, kind


def _in_words(message: str) -> str:
    message = re.sub(
        r"`([^`]+)`",
        lambda match: " or ".join(_TYPE_WORDS.get(name, name) for name in match[1].split(" | ")),
        message,
    )
    message = message.replace("Object missing required field ", "missing field ")
    return message if message.startswith("JSON") else message[:1].lower() + message[1:]


def _show(value: Any) -> str:
    return shorten(json.dumps(value), 60)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?")) else f"{text}."
