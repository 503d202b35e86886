"""Reading of JSON files with captions."""

import json
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from captioning.errors import CaptioningError, DataError
from captioning.files import read_bytes, read_text
from captioning.json_data import convert_json

T = TypeVar("T")


def load_json(text: str, source: str, *, error: type[CaptioningError] = DataError) -> Any:
    """Parse JSON text; ``source`` names its file and line in errors.

    Raises:
        CaptioningError: The text is not JSON. The class is ``error``.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as reason:
        raise error(
            f"{source}: not valid JSON ({reason}). If the file is incomplete, download it again or "
            "repeat the command that wrote it."
        ) from reason


def read_json_fields(path: Path, kind: type[T]) -> T:
    """Read the fields of ``kind`` from a JSON file, and ignore others.

    Memory holds the text of the file and the fields, not the other content.

    Raises:
        DataError: The file is not JSON, or a field is missing or has another type.
    """
    try:
        return msgspec.json.decode(read_bytes(path, error=DataError), type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        # Slower, but names the field at fault; and it accepts NaN and lone surrogates.
        content = load_json(read_text(path, error=DataError), str(path))
        return convert_json(content, kind, source=str(path), error=DataError)
